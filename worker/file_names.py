"""Names of metric files, and what happens to them by name in the state directory.

A target's file keeps its name over all generations of its worker: `KIND_SLUG-DIGEST_PID.db`. The kind comes first
because prometheus_client's collector reads a file's type there. It would spoil gauges, so theirs end in `.own`, and
how they combine is in their kind. While a generation writes its first values its file is called
`….db.GENERATION.tmp`, which no reader looks at. In place of the pid, `retired-N` stands for a target that is gone, and
`folded` for all those that have been added up.

Whatever renames or removes takes the directory as a descriptor, so that no other one can be put in its place.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Mapping
from typing import Final, Literal

from ebpf_userspace_exporter.config.model import Combine, Program

FoldedKind = Literal["counter", "histogram"]
GaugeKind = Literal["gauge", "gauge-max", "gauge-min"]
Kind = FoldedKind | GaugeKind

FOLDED_KINDS: Final[tuple[FoldedKind, ...]] = ("counter", "histogram")
GAUGE_KINDS: Final[tuple[GaugeKind, ...]] = ("gauge", "gauge-max", "gauge-min")
KINDS: Final[tuple[Kind, ...]] = (*FOLDED_KINDS, *GAUGE_KINDS)
KIND_OF_GAUGES: Final[Mapping[Combine, GaugeKind]] = {
    Combine.SUM: "gauge",
    Combine.MAX: "gauge-max",
    Combine.MIN: "gauge-min",
}
MAX_SLUG_CHARACTERS = 40

_NOT_IN_A_SLUG = re.compile(r"[^A-Za-z0-9-]+")
_PROGRAM = rf"[A-Za-z0-9-]{{1,{MAX_SLUG_CHARACTERS}}}-[0-9a-f]{{8}}"
_GENERATION = r"(?:\.[0-9]+\.tmp)?"
_TOTALS = re.compile(
    rf"(?:counter|histogram)_(?P<program>{_PROGRAM})_(?:retired-[0-9]+|folded)\.db{_GENERATION}", re.ASCII
)
_OURS = re.compile(
    rf"(?:counter|histogram)_{_PROGRAM}_[0-9]+\.db{_GENERATION}"
    rf"|gauge(?:-max|-min)?_{_PROGRAM}_[0-9]+\.own{_GENERATION}"
    rf"|{_TOTALS.pattern}"
    r"|(?:counter|gauge|histogram)_supervisor\.own(?:\.tmp)?",
    re.ASCII,
)


def file_stem(program_name: str, pid: int) -> str:
    """Return what the names of a target's files have in common; different for different targets."""
    return f"{_program_stem(program_name)}_{pid}"


def metric_file_name(kind: Kind, program_name: str, pid: int) -> str:
    """Return the name under which a target's metrics of this kind are read."""
    ending = "own" if kind in GAUGE_KINDS else "db"
    return f"{kind}_{file_stem(program_name, pid)}.{ending}"


def temporary_file_name(kind: Kind, program_name: str, pid: int, generation: int) -> str:
    """Return the name under which one generation of the target's worker writes them."""
    return f"{metric_file_name(kind, program_name, pid)}.{generation}.tmp"


def retired_file_name(kind: FoldedKind, program_name: str, number: int) -> str:
    """Return the name under which the totals of a target that is gone are read until they are folded."""
    return f"{kind}_{_program_stem(program_name)}_retired-{number}.db"


def folded_file_name(kind: FoldedKind, program_name: str) -> str:
    """Return the name under which the totals of all targets of a program that are gone are read."""
    return f"{kind}_{_program_stem(program_name)}_folded.db"


def totals_in(directory_fd: int, program_name: str) -> list[str]:
    """Return the names of a program's retired and folded files that are there, half written ones too."""
    stem = _program_stem(program_name)
    matches = map(_TOTALS.fullmatch, os.listdir(directory_fd))
    return sorted(match[0] for match in matches if match and match["program"] == stem)


def kinds_of(program: Program) -> tuple[Kind, ...]:
    """Return the kinds of files that the program's metrics are in."""
    kinds: set[Kind] = {KIND_OF_GAUGES[gauge.combine] for gauge in program.metrics.gauges}
    if program.metrics.counters:
        kinds.add("counter")
    if program.metrics.histograms:
        kinds.add("histogram")
    return tuple(kind for kind in KINDS if kind in kinds)


def publish(directory_fd: int, program: Program, pid: int, generation: int) -> list[str]:
    """Put what this generation has written in the place of what readers see; return the names that changed.

    A kind that the program has no metric of (any more) goes. A kind that this generation did not write stays: after
    damage to one file only that one is written again.
    """
    changed = []
    wanted = kinds_of(program)
    for kind in KINDS:
        name = metric_file_name(kind, program.name, pid)
        if kind in wanted:
            with contextlib.suppress(FileNotFoundError):
                rename(temporary_file_name(kind, program.name, pid, generation), name, directory_fd)
                changed.append(name)
        elif discard(name, directory_fd):
            changed.append(name)
    return changed


def rename(written: str, name: str, directory_fd: int | None) -> None:
    """Put a file in the place of whatever has its name, even a folder, which the system call alone refuses."""
    try:
        os.rename(written, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except IsADirectoryError:
        discard(name, directory_fd)
        os.rename(written, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)


def discard(name: str, directory_fd: int | None) -> bool:
    """Remove whatever has one of our names: a file, a link, or a folder with all that is in it; False if there is none.

    What is in the way would keep the name from its file for ever.
    """
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=directory_fd)
        else:
            os.unlink(name, dir_fd=directory_fd)
    except FileNotFoundError:
        return False
    return True


def remove(directory_fd: int, program_name: str, pid: int) -> None:
    """Remove a target's files, with whatever its generations left half written."""
    names = {metric_file_name(kind, program_name, pid) for kind in KINDS}
    for name in os.listdir(directory_fd):
        if name in names or (name.endswith(".tmp") and is_ours(name) and name.rsplit(".", 2)[0] in names):
            discard(name, directory_fd)


def remove_unpublished(directory_fd: int, program_name: str, pid: int, generation: int) -> None:
    """Remove what one generation has written and nobody will publish any more."""
    for kind in KINDS:
        discard(temporary_file_name(kind, program_name, pid, generation), directory_fd)


def is_ours(name: str) -> bool:
    """Tell whether a file of this name is one that we write, and so may remove from a stale state directory."""
    return _OURS.fullmatch(name) is not None


def _program_stem(program_name: str) -> str:
    slug = _NOT_IN_A_SLUG.sub("-", program_name)[:MAX_SLUG_CHARACTERS] or "-"
    digest = hashlib.sha256(program_name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{slug}-{digest}"
