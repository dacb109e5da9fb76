"""The page for people: what the exporter is doing, of which nothing is asked of anywhere else."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader

from ebpf_userspace_exporter import __version__

MAX_TARGETS = 2000  # shown; a browser has trouble with many more
_MAX_SUMMARY = 120
_FOLDER = Path(__file__).parent
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))

STATIC_FILES: Mapping[str, tuple[str, bytes]] = {
    f"/{name}": (content_type, (_FOLDER / "static" / name).read_bytes())
    for name, content_type in (
        ("status.css", "text/css; charset=utf-8"),
        ("status.js", "text/javascript; charset=utf-8"),
    )
}
"""Content type and content of what the page consists of beside itself, by path."""

# Names of processes, labels and errors are what others chose: the template escapes whatever is put into it.
_environment = Environment(loader=FileSystemLoader(_FOLDER / "templates"), autoescape=True, auto_reload=False)


@dataclass(frozen=True, slots=True)
class _Error:
    """An error of a program, and the processes that have it; `id` is the same as long as they have."""

    program: str
    text: str
    pids: list[int]

    @property
    def id(self) -> str:
        return "e" + hashlib.sha256(f"{self.program}\0{self.text}".encode(errors="replace")).hexdigest()[:16]

    @property
    def summary(self) -> str:
        first = self.text.strip().partition("\n")[0]
        return first if len(first) <= _MAX_SUMMARY else first[: _MAX_SUMMARY - 1] + "…"


def render_page(status: Mapping[str, Any] | None, metrics_path: str) -> bytes:
    """Return the page; `status` is what the supervisor says of itself, None where it does not answer."""
    now = time.time()
    targets = sorted(status["targets"], key=_urgency) if status else []
    page = _environment.get_template("status.html").render(
        status=status,
        version=__version__,
        metrics_path=metrics_path,
        metrics_link="." + quote(metrics_path),
        targets=targets[:MAX_TARGETS],
        left_out=max(0, len(targets) - MAX_TARGETS),
        errors=_errors(targets),
        memory=_whole_memory(targets),
        now=now,
        age=lambda unix: _age(now - unix),
        utc=_utc,
        megabytes=_megabytes,
    )
    return page.encode(errors="backslashreplace")  # a name need not be UTF-8


def _urgency(target: Mapping[str, Any]) -> tuple[bool, str, int]:
    """What somebody should look at comes first."""
    return not target.get("error"), target["program"], target["pid"]


def _errors(targets: list[Mapping[str, Any]]) -> list[_Error]:
    found: dict[tuple[str, str], list[int]] = {}
    for target in targets:
        if target.get("error"):
            found.setdefault((target["program"], target["error"]), []).append(target["pid"])
    return [_Error(program, text, pids) for (program, text), pids in found.items()]


def _whole_memory(targets: list[Mapping[str, Any]]) -> str:
    """Return the sum of what is known; of many workers it is known a few at a time."""
    known = [target["worker_memory_bytes"] for target in targets if target.get("worker_memory_bytes")]
    return f"{_megabytes(sum(known))} in {len(known)} workers" if known else "not measured"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _utc(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _age(seconds: float) -> str:
    """Return a time span in its two largest units."""
    whole = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in _UNITS:
        number, whole = divmod(whole, length)
        if number or parts or unit == "s":
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])
