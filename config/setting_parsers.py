"""Each setting: how its text is read, what is expected of it, and its default."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from ebpf_userspace_exporter.config.address import parse_address
from ebpf_userspace_exporter.config.durations import parse_duration

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["logfmt", "json"]

_METRICS_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_OWN_PATHS = frozenset({"/-/healthy", "/-/ready", "/status.css", "/status.js"})
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?")


@dataclass(frozen=True, slots=True)
class Setting:
    """`parse` raises ValueError, with a text where it knows more than `expectation`; a default of None is no value."""

    parse: Callable[[str], object]
    expectation: str
    default: str | None = None


def _file(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text)


def _absolute_path(text: str) -> Path:
    return _file(text).absolute()


def _folder(text: str) -> Path:
    folder = _absolute_path(text)
    if not folder.is_dir():
        raise ValueError
    return folder


def _metrics_path(text: str) -> str:
    if text in _OWN_PATHS:
        raise ValueError("expected a path that the exporter does not use itself")
    if not _METRICS_PATH.fullmatch(text):
        raise ValueError
    return text


def _user(text: str) -> str:
    if not _USER.fullmatch(text):
        raise ValueError
    return text


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise ValueError from None


def _choice(choices: tuple[str, ...], default: str) -> Setting:
    def parse(text: str) -> str:
        word = text.lower()
        if word not in choices:
            raise ValueError
        return word

    return Setting(parse, f"expected {', '.join(choices[:-1])} or {choices[-1]}", default)


SETTINGS: Mapping[str, Setting] = {
    "probe-config": Setting(_file, "expected a file"),
    "reload-on-change": Setting(_boolean, "expected true or false", "false"),
    "listen-address": Setting(parse_address, "expected HOST:PORT", "0.0.0.0:8080"),
    "metrics-path": Setting(_metrics_path, "expected a path that starts with /", "/metrics"),
    "state-dir": Setting(_absolute_path, "expected a folder", "/run/ebpf-userspace-exporter"),
    "scan-interval": Setting(partial(parse_duration, least=0.01, most=3600), "expected a duration", "1s"),
    "rescan-interval": Setting(partial(parse_duration, least=0.01, most=3600), "expected a duration", "10s"),
    "exit-grace": Setting(partial(parse_duration, least=0.01, most=86400), "expected a duration", "60s"),
    "kernel-headers": Setting(_folder, "expected a folder that exists"),
    "web-user": Setting(_user, "expected the name of a user"),
    "log-level": _choice(get_args(LogLevel), "info"),
    "log-format": _choice(get_args(LogFormat), "logfmt"),
}
