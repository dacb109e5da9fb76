"""Where the values of a metric file stand, found once, so that from then on all are read by a few C calls.

The format is prometheus_client's (mmap_dict.py): int32 used, 4 bytes; then up to `used` entries of int32 key length,
the key with 1 to 8 spaces that align the value to 8 bytes, float64 value, float64 timestamp (not used here).
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from itertools import compress
from typing import NamedTuple, assert_never

from ebpf_userspace_exporter.web.metric_keys import Key, Kind, Labels, MetricFileError, decode_key

HEADER_BYTES = 8
MAX_KEY_BYTES = 1 << 20  # whoever runs a target chooses texts, of up to 12 KiB each in JSON

_INT32 = struct.Struct("i")
_SHARED_NAMES = 1 << 10
_VALUE_BYTES = 8
_VALUE_AND_TIMESTAMP_BYTES = 16
_HEADER = struct.Struct(f"{HEADER_BYTES}x")

Values = tuple[float, ...]


class Combine(Enum):
    """What becomes of equal labels in several files."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, slots=True, eq=False)
class MetricLayout:
    """One metric's values in one file: for each its labels and, where it is a bucket's count, the upper bound.

    Equal to itself alone: comparing many of them then costs next to nothing.
    """

    name: str
    help: str
    kind: Kind
    combine: Combine
    labels: tuple[Labels, ...]
    upper_bounds: tuple[float | None, ...]
    is_count: bytes
    """For each value 1 where it is a bucket's count, else 0."""
    label_names: frozenset[tuple[str, ...]]
    """The names of the labels in their order; of one order, mostly."""
    numbers: struct.Struct

    def values(self, raw: bytes) -> Values:
        """Return the entries' values; MetricFileError where one cannot be what it says."""
        values: Values = self.numbers.unpack_from(raw)
        # The sum is NaN where a value is, but where both infinities are as well.
        has_nan = math.isnan(sum(values)) and any(map(math.isnan, values))
        match self.kind:
            case Kind.COUNTER:
                if has_nan or min(values) < 0:
                    raise MetricFileError("corrupt: a counter is negative or not a number")
            case Kind.GAUGE:
                if has_nan:
                    raise MetricFileError("corrupt: a gauge is not a number")
            case Kind.HISTOGRAM:
                counts = list(compress(values, self.is_count))
                if counts and not (min(counts) >= 0 and all(map(float.is_integer, counts))):
                    raise MetricFileError("corrupt: a bucket does not hold a count")
                if has_nan:
                    raise MetricFileError("corrupt: a histogram's sum is not a number")
            case _:
                assert_never(self.kind)
        return values


class _Entry(NamedTuple):
    key: Key
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What is in a file, but for the values."""

    kind: Kind
    combine: Combine
    metrics: tuple[MetricLayout, ...] = ()
    keys: struct.Struct = _HEADER
    """Takes out all that stands between the values."""

    def of(self, raw: bytes, before: bytes) -> "Layout":
        """Return the layout of the bytes that a file has now, where it had those of `before` when this was its layout.

        That is this one as long as the keys are the same; where others follow, only those are decoded. MetricFileError
        where the bytes are not what a writer leaves.
        """
        is_same = len(raw) >= self.keys.size and self.keys.unpack_from(raw) == self.keys.unpack(before)
        layout = self if is_same else Layout(self.kind, self.combine)
        return layout if len(raw) == layout.keys.size else layout.extended(raw)

    def extended(self, raw: bytes) -> "Layout":
        """Return the layout of the bytes in use of a file that begins as this one says."""
        added: dict[str, tuple[list[Key], list[int]]] = {}
        sizes: list[int] = []
        position, end = self.keys.size, len(raw)
        while position < end:
            start = position + _INT32.size
            if start > end:
                raise MetricFileError("torn: it ends within an entry")
            (key_bytes,) = _INT32.unpack_from(raw, position)
            if not 0 < key_bytes <= MAX_KEY_BYTES:
                raise MetricFileError("corrupt: a key's length is out of range")
            offset = start + key_bytes + 8 - (key_bytes + 4) % 8
            if offset + _VALUE_AND_TIMESTAMP_BYTES > end:
                raise MetricFileError("torn: it ends within an entry")
            key = decode_key(raw[start : start + key_bytes], self.kind)
            metric = key.frame.metric
            if metric not in added:
                added[metric] = [], []
            keys, offsets = added[metric]
            keys.append(key)
            offsets.append(offset)
            sizes.append(offset - position)
            position = offset + _VALUE_AND_TIMESTAMP_BYTES
        metrics = {metric.name: metric for metric in self.metrics}
        for name, (keys, offsets) in added.items():
            metrics[name] = self._grown(metrics.get(name), keys, offsets)
        between = self.keys.format + "".join([f"{size}s{_VALUE_AND_TIMESTAMP_BYTES}x" for size in sizes])
        return Layout(self.kind, self.combine, tuple(metrics.values()), struct.Struct(between))

    def _grown(self, metric: MetricLayout | None, keys: Sequence[Key], offsets: Sequence[int]) -> MetricLayout:
        frames, labels, upper_bounds = zip(*keys, strict=True)
        if metric is None:
            first, empty = frames[0], struct.Struct("=")
            metric = MetricLayout(first.metric, first.help, self.kind, self.combine, (), (), b"", frozenset(), empty)
        ends = [metric.numbers.size, *(offset + _VALUE_BYTES for offset in offsets)]
        numbers = "".join([f"{offset - end}xd" for offset, end in zip(offsets, ends, strict=False)])
        return replace(
            metric,
            labels=metric.labels + labels,
            upper_bounds=metric.upper_bounds + upper_bounds,
            is_count=metric.is_count + bytes([bound is not None for bound in upper_bounds]),
            label_names=_shared(metric.label_names.union([frame.label_names for frame in set(frames)])),
            numbers=struct.Struct(metric.numbers.format + numbers),
        )


@lru_cache(_SHARED_NAMES)
def _shared(names: frozenset[tuple[str, ...]]) -> frozenset[tuple[str, ...]]:
    return names
