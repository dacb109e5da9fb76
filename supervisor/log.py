"""Log lines on stderr: logfmt or JSON, UTC, one line per event whatever a value holds.

Values come from elsewhere: names of processes, compilers' words, bytes that are no text. What is unprintable is written
as an escape sequence, so that no value can end its line, forge another, or speak to a terminal.
"""

import json
import math
import os
import re
from datetime import UTC, datetime

import structlog
from structlog.typing import EventDict, WrappedLogger

from ebpf_userspace_exporter.config.setting_parsers import LogFormat, LogLevel

STDERR = 2
MAX_VALUE = 16_384  # a verifier's log can be megabytes

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,-]+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def configure(level: LogLevel, format: LogFormat) -> None:  # noqa: A002 - the flag's name
    """Make structlog.get_logger() write what is at least of this level to stderr; may be called again."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            _ordered,
            _render_json if format == "json" else _render_logfmt,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=False,
    )


class _StderrLogger:
    """Writes each line by one system call: the processes' lines do not mix, and a fork copies no buffer."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, line: str) -> None:
        rest = memoryview(line.encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(STDERR, rest) :]
        except OSError:
            return  # nobody reads the log any more, or its disk is full: not a reason to stop counting

    debug = info = warning = error = critical = exception = msg


def _ordered(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    level = "error" if method == "exception" else method
    return {"time": f"{now}Z", "level": level, "msg": event.pop("event", ""), **event}


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    # ASCII only, since JSON leaves C1 controls and overrides of text direction as they are.
    return json.dumps({_key(name): _json_value(value) for name, value in event.items()}, ensure_ascii=True)


def _json_value(value: object) -> object:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    # A lone surrogate is no JSON text for most readers.
    return _SURROGATES.sub(lambda found: _escape_char(found[0]), _text(value))


def _render_logfmt(_: WrappedLogger, __: str, event: EventDict) -> str:
    return " ".join(f"{_key(name)}={_logfmt_value(value)}" for name, value in event.items())


def _key(name: object) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", str(name)) or "_"


def _logfmt_value(value: object) -> str:
    text = _text(value)
    return text if _BARE.fullmatch(text) else f'"{_escape(text)}"'


def _text(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case bytes():
            text = value.decode(errors="surrogateescape")
        case _:
            text = str(value)
    if len(text) > MAX_VALUE:
        return f"{text[:MAX_VALUE]}… ({len(text) - MAX_VALUE} more characters)"
    return text


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(char) or (char if char.isprintable() else _escape_char(char)) for char in text)


def _escape_char(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as os.fsdecode has it
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
