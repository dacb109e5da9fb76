"""Reads the state directory's metric files; nothing in a file is trusted, and a bad file costs itself alone."""

import contextlib
import errno
import json
import math
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import assert_never

from ebpf_userspace_exporter.web.open_files import OpenFile, open_files

MAX_FILE_BYTES = 64 << 20
MAX_KEY_BYTES = 1 << 20  # whoever runs a target chooses texts, of up to 12 KiB each in JSON

_INT32 = struct.Struct("i")
_VALUE_AND_TIMESTAMP = struct.Struct("dd")
_HEADER_BYTES = 8
_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
# `.db` is for everybody, stock collectors included; `.own` holds what those would spoil: gauges and own metrics.
_FILE_NAME = re.compile(r"(?P<kind>[a-z]+)(?:-(?P<combine>[a-z]+))?_.*\.(?P<ending>db|own)", re.DOTALL)


class Kind(Enum):
    """What a metric is; a file holds metrics of one kind, the first word of its name."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Combine(Enum):
    """What becomes of equal labels in several files."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a file; `upper_bound` is set where it is a histogram's own, not cumulative, bucket count."""

    family: str
    sample: str
    labels: tuple[tuple[str, str], ...]
    help: str
    value: float
    upper_bound: float | None = None


@dataclass(frozen=True, slots=True)
class MetricFile:
    """A file that was read and checked as a whole."""

    name: str
    kind: Kind
    entries: tuple[Entry, ...]
    combine: Combine = Combine.SUM


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """A file of which nothing is used, and why."""

    name: str
    reason: str


class MetricFileError(Exception):
    """The file cannot be used; the message says what was found instead of what."""


def read_metric_files(state_directory: Path) -> Iterator[MetricFile | UnreadableFile]:
    """Yield what each metric file of the directory holds, the supervisor's first, then by name.

    A directory that cannot be read is yielded as one unreadable file.
    """
    with contextlib.ExitStack() as stack:
        try:
            files = stack.enter_context(open_files(state_directory))
        except OSError as error:
            yield UnreadableFile(str(state_directory), str(error.strerror))
            return
        for file in files:
            try:
                yield _read_file(file)
            except MetricFileError as error:
                yield UnreadableFile(file.name, str(error))
            except OSError as error:
                yield UnreadableFile(file.name, str(error.strerror))


def _read_file(file: OpenFile) -> MetricFile:
    kind, combine = _kind_of(file.name)
    if file.error is not None:
        if file.error.errno in (errno.ELOOP, errno.ENXIO):
            raise MetricFileError("not a regular file") from file.error
        raise file.error
    raw = _read_all(file.descriptor)
    return MetricFile(file.name, kind, tuple(decode_entries(raw, kind)), combine)


def _kind_of(name: str) -> tuple[Kind, Combine]:
    """Return the kind of metric in a file of this name and how it combines, which only gauges can say."""
    match = _FILE_NAME.fullmatch(name)
    if match is not None:
        with contextlib.suppress(ValueError):
            kind, combine = Kind(match["kind"]), Combine(match["combine"] or "sum")
            if match["ending"] == "own" if kind is Kind.GAUGE else match["combine"] is None:
                return kind, combine
    raise MetricFileError("its name does not start with a kind of metric that such a file may hold")


def _read_all(file: int) -> bytes:
    """Return the file's bytes; a copy, as a page of a mapped file that shrinks under us would be SIGBUS."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise MetricFileError("not a regular file")
    chunks: list[bytes] = []
    size = 0
    # To the end, not to st_size: a file that grows meanwhile has its new header in the first chunk already.
    while chunk := os.read(file, max(status.st_size - size, 0) + 4096):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            raise MetricFileError(f"larger than {MAX_FILE_BYTES} bytes")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def decode_entries(raw: bytes, kind: Kind) -> Iterator[Entry]:
    """Yield a file's entries; raises MetricFileError where the bytes are not what a writer leaves.

    The format is prometheus_client's (mmap_dict.py): int32 used, 4 bytes; then entries of int32 key length, the key
    with 1 to 8 spaces that align the value to 8 bytes, float64 value, float64 timestamp (not used here).
    """
    if len(raw) < _HEADER_BYTES:
        raise MetricFileError("empty" if not raw else "shorter than its header")
    (used,) = _INT32.unpack_from(raw)
    if not _HEADER_BYTES <= used <= len(raw):
        raise MetricFileError("torn: its header does not fit its size")
    position = _HEADER_BYTES
    while position < used:
        if position + _INT32.size > used:
            raise MetricFileError("torn: it ends within an entry")
        (key_bytes,) = _INT32.unpack_from(raw, position)
        position += _INT32.size
        if not 0 < key_bytes <= MAX_KEY_BYTES:
            raise MetricFileError("corrupt: a key's length is out of range")
        value_position = position + key_bytes + 8 - (key_bytes + 4) % 8
        if value_position + _VALUE_AND_TIMESTAMP.size > used:
            raise MetricFileError("torn: it ends within an entry")
        value, _ = _VALUE_AND_TIMESTAMP.unpack_from(raw, value_position)
        yield _entry(raw[position : position + key_bytes], value, kind)
        position = value_position + _VALUE_AND_TIMESTAMP.size


def _entry(key: bytes, value: float, kind: Kind) -> Entry:
    try:
        document: object = json.loads(key.decode())
    except (ValueError, RecursionError) as error:
        raise MetricFileError("corrupt: a key is not JSON in UTF-8") from error
    match document:
        case [str() as family, str() as sample, dict() as labels, str() as help_text]:
            pass
        case _:
            raise MetricFileError("corrupt: a key is not [family, sample, labels, help]")
    if not (_METRIC_NAME.fullmatch(sample) and _METRIC_NAME.fullmatch(family)):
        raise MetricFileError("corrupt: a metric's name is not one")
    if not all(_LABEL_NAME.fullmatch(name) and isinstance(text, str) for name, text in labels.items()):
        raise MetricFileError("corrupt: a label is not one")
    if not all(map(_is_unicode, (help_text, *labels.values()))):
        raise MetricFileError("corrupt: a text holds half of a surrogate pair")
    match kind:
        case Kind.COUNTER:
            _check_counter(family, sample, value)
        case Kind.GAUGE:
            if sample != family:
                raise MetricFileError("corrupt: a gauge's sample is not named as its family")
            if math.isnan(value):
                raise MetricFileError("corrupt: a gauge is not a number")
        case Kind.HISTOGRAM:
            return _histogram_entry(family, sample, labels, help_text, value)
        case _:
            assert_never(kind)
    return Entry(family, sample, tuple(labels.items()), help_text, value)


def _check_counter(family: str, sample: str, value: float) -> None:
    if sample not in (family, f"{family}_total"):
        raise MetricFileError("corrupt: a counter's sample is not named as its family")
    if not value >= 0:
        raise MetricFileError("corrupt: a counter is negative or not a number")


def _histogram_entry(family: str, sample: str, labels: dict[str, str], help_text: str, value: float) -> Entry:
    if sample == f"{family}_sum" and "le" not in labels:
        if math.isnan(value):
            raise MetricFileError("corrupt: a histogram's sum is not a number")
        return Entry(family, sample, tuple(labels.items()), help_text, value)
    if sample != f"{family}_bucket" or "le" not in labels:
        raise MetricFileError("corrupt: a histogram's sample is neither a bucket nor its sum")
    if not (value >= 0 and value.is_integer()):
        raise MetricFileError("corrupt: a bucket does not hold a count")
    try:
        upper_bound = float(labels["le"])
    except ValueError:
        upper_bound = math.nan
    if math.isnan(upper_bound):
        raise MetricFileError("corrupt: a bucket's upper bound is not a number")
    others = tuple(label for label in labels.items() if label[0] != "le")
    return Entry(family, sample, others, help_text, value, upper_bound)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
