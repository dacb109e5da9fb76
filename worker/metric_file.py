"""Metric files: prometheus_client's multiprocess format (its mmap_dict.py), written so that a reader needs no lock.

    int32 used, 4 bytes of padding, then up to `used`: entries
    entry: int32 key bytes, key in UTF-8, 1 to 8 spaces up to a multiple of 8, float64 value, float64 timestamp

The key is JSON: [family, sample, {label: value}, help]. For counters and histograms prometheus_client has no use for
the timestamp; it holds the raw number last seen in the map, from which a worker's successor goes on.
"""

import contextlib
import errno
import json
import mmap
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from ebpf_userspace_exporter.worker.file_names import discard, rename

MAX_FILE_BYTES = 64 << 20  # as much as readers take

_HEADER = struct.Struct("=i4x")
_LENGTH = struct.Struct("=i")
_NUMBERS = struct.Struct("=dd")
_FLAGS = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o640
_JSON = json.JSONEncoder(separators=(",", ":"))


Place: TypeAlias = slice
"""Where a series' two numbers are in its file."""


class MetricFileError(Exception):
    """A metric file that cannot be made, or is none: it costs that file."""


class NoSpaceError(MetricFileError):
    """No room left for a metric file or a series in it."""


def metric_key(family: str, sample: str, labels: Sequence[tuple[str, str]], help_text: str) -> str:
    """Return an entry's key, with the labels in the order given."""
    return _JSON.encode([family, sample, dict(labels), help_text])


class MetricFile:
    """A metric file that one process writes and anybody reads at any time.

    Readers map the file, so it only ever grows: reading beyond the end of a mapped file is SIGBUS.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        """Write to the empty file that `descriptor` is; `create` makes one."""
        self._descriptor = descriptor
        self._name = name
        self._capacity = 0
        self._used = _HEADER.size
        # What the file should hold: comparing all of it is one memcmp, and finds every kind of damage. In a mapping,
        # too: to set a slice of a bytearray takes several times as long.
        self._map, self._expected = self._grown(self._used)
        self._map[: self._used] = self._expected[: self._used] = _HEADER.pack(self._used)

    @classmethod
    def create(cls, path: Path, *, group: int | None) -> "MetricFile":
        """Make a new, empty file that `group` may read; MetricFileError if that fails, or something is there."""
        with _os_errors(path.name):
            descriptor = _create(path, None, group)
            try:
                return cls(descriptor, path.name)
            except OSError:
                os.close(descriptor)
                path.unlink()
                raise

    def slot(self, key: str) -> Place:
        """Add a series that is 0 and return its place; NoSpaceError leaves the file as it was."""
        return self.slots([key])[0]

    def slots(self, keys: Iterable[str]) -> list[Place]:
        """Add series that are 0, all or none, and return their places; NoSpaceError leaves the file as it was."""
        begin = self._used
        added, slots = bytearray(), []
        for key in keys:
            added += _entry(key, 0.0, 0.0)
            end = begin + len(added)
            slots.append(slice(end - _NUMBERS.size, end))
        used = begin + len(added)
        if used > self._capacity:
            before = self._map, self._expected
            with _os_errors(self._name):
                self._map, self._expected = self._grown(used)
            self._expected[:begin] = before[1][:begin]
            for memory in before:
                memory.close()
        # `used` comes last: until then no reader looks at what stands behind it.
        self._map[begin:used] = self._expected[begin:used] = bytes(added)
        self._map[: _LENGTH.size] = self._expected[: _LENGTH.size] = _LENGTH.pack(used)
        self._used = used
        return slots

    def store(self, slots: Iterable[Place], values: Iterable[float], lasts: Iterable[float]) -> None:
        """Set series' values and the raw numbers they come from, given in the same order.

        Both numbers at once, in one copy of 16 bytes: a process killed between two stores would leave its successor a
        pair that does not belong together. And by slice, not by struct.pack_into, which writes byte by byte: readers
        would see halves.
        """
        written, expected = self._map, self._expected
        for slot, numbers in zip(slots, map(_NUMBERS.pack, values, lasts), strict=True):
            written[slot] = expected[slot] = numbers

    def damaged(self) -> bool:
        """Tell whether anybody has removed, cut or overwritten the file."""
        status = os.fstat(self._descriptor)
        if status.st_nlink == 0 or status.st_size < self._capacity:
            return True
        return self._map[: self._used] != self._expected[: self._used]

    def is_at(self, path: Path) -> bool:
        """Tell whether the file has this name: not if it was moved, or something was put in its place."""
        try:
            return os.path.samestat(os.lstat(path), os.fstat(self._descriptor))
        except OSError:
            return False

    def close(self) -> None:
        """Let go of the file, which stays; a second call does nothing."""
        if self._descriptor >= 0:
            self._map.close()
            self._expected.close()
            os.close(self._descriptor)
            self._descriptor = -1

    def _grown(self, used: int) -> tuple[mmap.mmap, mmap.mmap]:
        """Return a mapping of the file with room for `used` bytes, twice that if it can be had, and memory as large."""
        # Space is taken before it is mapped: a store into a page that a full tmpfs cannot give is SIGBUS.
        needed = -(-used // mmap.PAGESIZE) * mmap.PAGESIZE
        if needed > MAX_FILE_BYTES:
            raise OSError(errno.ENOSPC, f"would be larger than {MAX_FILE_BYTES} bytes")
        capacity = min(max(needed, 2 * self._capacity), MAX_FILE_BYTES)
        try:
            os.posix_fallocate(self._descriptor, 0, capacity)
        except OSError as error:
            if error.errno != errno.ENOSPC or capacity == needed:
                raise
            capacity = needed
            os.posix_fallocate(self._descriptor, 0, capacity)
        grown = mmap.mmap(self._descriptor, capacity)
        expected = mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._capacity = capacity
        return grown, expected


def write_metric_file(
    path: str | Path, entries: Mapping[str, tuple[float, float]], group: int | None, *, directory_fd: int | None = None
) -> None:
    """Write a whole file in one step, as `path`.tmp that is then renamed; MetricFileError if that fails.

    `entries` are (value, timestamp) by key. With `directory_fd` the path is relative to that directory.
    """
    path, temporary = Path(path), Path(f"{path}.tmp")
    body = b"".join(_entry(key, value, timestamp) for key, (value, timestamp) in entries.items())
    with _os_errors(path.name):
        discard(str(temporary), directory_fd)
        descriptor = _create(temporary, directory_fd, group)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                content = memoryview(_HEADER.pack(_HEADER.size + len(body)) + body)
                while content:
                    content = content[file.write(content) :]
            rename(str(temporary), str(path), directory_fd)
        except OSError:
            discard(str(temporary), directory_fd)
            raise


def read_metric_file(source: Path | int) -> dict[str, tuple[float, float]]:
    """Return (value, timestamp) by key; MetricFileError for what is missing, empty, torn or noise.

    A descriptor is read from its start and stays open.
    """
    name = f"descriptor {source}" if isinstance(source, int) else source.name
    with _os_errors(name):
        if isinstance(source, int):
            content = _content(source, name)
        else:
            descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                content = _content(descriptor, name)
            finally:
                os.close(descriptor)
    return _entries(content, name)


def _create(path: Path, directory_fd: int | None, group: int | None) -> int:
    descriptor = os.open(path, os.O_RDWR | _FLAGS, _MODE, dir_fd=directory_fd)
    try:
        if group is not None:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, _MODE)  # whatever the umask
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _entry(key: str, value: float, timestamp: float) -> bytes:
    encoded = key.encode()
    padding = 8 - (_LENGTH.size + len(encoded)) % 8
    return b"".join((_LENGTH.pack(len(encoded)), encoded, b" " * padding, _NUMBERS.pack(value, timestamp)))


def _content(descriptor: int, name: str) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise MetricFileError(f"{name}: not a regular file")
    header = os.pread(descriptor, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        raise MetricFileError(f"{name}: {len(header)} bytes, expected a header of {_HEADER.size}")
    (used,) = _HEADER.unpack(header)
    if not _HEADER.size <= used <= min(status.st_size, MAX_FILE_BYTES) or used % 8:
        raise MetricFileError(f"{name}: header says {used} bytes, the file has {status.st_size}")
    content = os.pread(descriptor, used, 0)
    if len(content) != used:
        raise MetricFileError(f"{name}: {len(content)} bytes, its header said {used}")
    return content


def _entries(content: bytes, name: str) -> dict[str, tuple[float, float]]:
    entries: dict[str, tuple[float, float]] = {}
    position, used = _HEADER.size, len(content)
    while position < used:
        (key_bytes,) = _LENGTH.unpack_from(content, position)
        start = position + _LENGTH.size
        numbers = start + key_bytes + 8 - (_LENGTH.size + key_bytes) % 8
        if key_bytes <= 0 or numbers + _NUMBERS.size > used:
            raise MetricFileError(f"{name}: entry at {position} has a key of {key_bytes} bytes, {used} are used")
        try:
            key = content[start : start + key_bytes].decode()
        except UnicodeDecodeError as error:
            raise MetricFileError(f"{name}: the key of the entry at {position} is not UTF-8") from error
        if key in entries or content[start + key_bytes : numbers].strip(b" "):
            raise MetricFileError(f"{name}: entry at {position} is there twice or not padded")
        entries[key] = _NUMBERS.unpack_from(content, numbers)
        position = numbers + _NUMBERS.size
    return entries


@contextlib.contextmanager
def _os_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = NoSpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else MetricFileError
        raise kind(f"{name}: {error.strerror}") from error
