"""Reads the state directory's metric files: what has not changed is not looked at twice, a bad file costs itself alone.

Files are copied, not mapped: a page of a mapped file that shrinks under us would be SIGBUS, and the copy is what tells
whether anything has changed. It costs 10 µs for a file of 300 values, opening included.
"""

import contextlib
import errno
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from ebpf_userspace_exporter.web.layouts import HEADER_BYTES, Combine, Layout, Values
from ebpf_userspace_exporter.web.metric_keys import Kind, MetricFileError
from ebpf_userspace_exporter.web.open_files import OpenFile, open_files

MAX_FILE_BYTES = 64 << 20

_FIRST_READ_BYTES = 64 << 10
_USED = struct.Struct("i")
# `.db` is for everybody, stock collectors included; `.own` holds what those would spoil: gauges and own metrics.
_FILE_NAME = re.compile(r"(?P<kind>[a-z]+)(?:-(?P<combine>[a-z]+))?_.*\.(?P<ending>db|own)", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class MetricFile:
    """A file that was read and checked as a whole: `values` has a tuple for each metric of its layout.

    As long as nothing in the file changes it is the same object, and equal to no other.
    """

    name: str
    layout: Layout
    values: tuple[Values, ...]
    raw: bytes


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """A file of which nothing is used, and why."""

    name: str
    reason: str


class FileCache:
    """The metric files of one directory as they were last read; for one thread at a time."""

    def __init__(self, state_directory: Path) -> None:
        self._state_directory = state_directory
        self._files: dict[str, MetricFile] = {}

    def read(self) -> list[MetricFile | UnreadableFile]:
        """Return what each metric file of the directory holds now, the supervisor's first, then by name.

        A directory that cannot be read is one unreadable file.
        """
        with contextlib.ExitStack() as stack:
            try:
                files = stack.enter_context(open_files(self._state_directory))
            except OSError as error:
                return [UnreadableFile(str(self._state_directory), str(error.strerror))]
            outcomes = [self._outcome(file) for file in files]
        self._files = {outcome.name: outcome for outcome in outcomes if isinstance(outcome, MetricFile)}
        return outcomes

    def _outcome(self, file: OpenFile) -> MetricFile | UnreadableFile:
        try:
            return _read(file, self._files.get(file.name))
        except MetricFileError as error:
            return UnreadableFile(file.name, str(error))
        except OSError as error:
            return UnreadableFile(file.name, str(error.strerror))


def _read(file: OpenFile, before: MetricFile | None) -> MetricFile:
    """Return `before` where the file still holds the same; the keys tell whose values they are, not the inode."""
    empty = Layout(*_kind_of(file.name))
    if file.error is not None:
        if file.error.errno in (errno.ELOOP, errno.ENXIO):
            raise MetricFileError("not a regular file") from file.error
        raise file.error
    raw = _used_part(file.descriptor, _FIRST_READ_BYTES if before is None else len(before.raw))
    if before is None:
        layout = empty.extended(raw)
    elif raw == before.raw:
        return before
    else:
        layout = before.layout.of(raw, before.raw)
    return MetricFile(file.name, layout, tuple([metric.values(raw) for metric in layout.metrics]), raw)


def _kind_of(name: str) -> tuple[Kind, Combine]:
    """Return the kind of metric in a file of this name and how it combines, which only gauges can say."""
    match = _FILE_NAME.fullmatch(name)
    if match is not None:
        with contextlib.suppress(ValueError):
            kind, combine = Kind(match["kind"]), Combine(match["combine"] or "sum")
            if match["ending"] == "own" if kind is Kind.GAUGE else match["combine"] is None:
                return kind, combine
    raise MetricFileError("its name does not start with a kind of metric that such a file may hold")


def _used_part(descriptor: int, expected_bytes: int) -> bytes:
    """Return the bytes in use, by one system call where those are as many as expected.

    What is compared is the header with what could be read, not with the size: a file may grow at any time.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise MetricFileError("not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise MetricFileError(f"larger than {MAX_FILE_BYTES} bytes")
    raw = os.pread(descriptor, expected_bytes, 0)
    if len(raw) < HEADER_BYTES:
        raise MetricFileError("empty" if not raw else "shorter than its header")
    (used,) = _USED.unpack_from(raw)
    if len(raw) < used <= MAX_FILE_BYTES:
        raw = os.pread(descriptor, used, 0)
    if not HEADER_BYTES <= used <= len(raw):
        raise MetricFileError("torn: its header does not fit its size")
    return raw[:used]
