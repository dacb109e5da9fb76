"""The numbers of a metric, taken out of its map's leaves."""

import struct
from collections.abc import Iterator
from itertools import chain

from ebpf_userspace_exporter.config.model import ValueType
from ebpf_userspace_exporter.worker.bpf.maps import Rows, leaf_copies, leaf_stride
from ebpf_userspace_exporter.worker.image import MapShape

_CODES = {
    ValueType.U8: "B",
    ValueType.U16: "H",
    ValueType.U32: "I",
    ValueType.U64: "Q",
    ValueType.S8: "b",
    ValueType.S16: "h",
    ValueType.S32: "i",
    ValueType.S64: "q",
}
_UNSIGNED = {1: ValueType.U8, 2: ValueType.U16, 4: ValueType.U32, 8: ValueType.U64}


class NoValueError(ValueError):
    """The leaf has no such value; the message says how many bytes there are instead."""


def value_type_at(leaf_bytes: int, offset: int, value_type: ValueType | None) -> ValueType:
    """Return how the value at `offset` is read: without a type, all that follows, up to 8 bytes, as unsigned.

    NoValueError where it ends beyond the leaf, or the rest of the leaf is no integer.
    """
    if value_type is None:
        rest = min(leaf_bytes - offset, 8)
        if rest not in _UNSIGNED:
            at = f" from byte {offset} on" if offset else ""
            raise NoValueError(f"have {max(rest, 0)} bytes{at}, expected 1, 2, 4 or 8")
        return _UNSIGNED[rest]
    if offset + value_type.size > leaf_bytes:
        raise NoValueError(
            f"have {leaf_bytes} bytes, a {value_type} at byte {offset} ends at {offset + value_type.size}"
        )
    return value_type


class ValueReader:
    """Takes the value at one place of the leaf out of all rows of a map at once; NoValueError if there is none.

    A sum over CPUs is what the program would have counted in one place. A program that subtracts on another CPU than
    it added on leaves a huge number where it meant a negative one, so sums wrap around: 64-bit ones at 64 bits, and
    without a `value_type` at the width of the value. Told a smaller type, the sum is exact: it may be larger than any
    CPU's share of it could get, and whoever subtracts says that the type is a signed one.
    """

    __slots__ = ("_copies", "_modulus", "_row", "_signed")

    def __init__(self, shape: MapShape, offset: int = 0, value_type: ValueType | None = None) -> None:
        found = value_type_at(shape.leaf_bytes, offset, value_type)
        self._copies = leaf_copies(shape)
        after = leaf_stride(shape) - offset - found.size
        self._row = struct.Struct("=" + f"{offset}x{_CODES[found]}{after}x" * self._copies)
        self._modulus = 1 << 8 * found.size if value_type is None or found.size == 8 else 0
        self._signed = found.is_signed

    def totals(self, rows: Rows) -> Iterator[int]:
        """Yield one number per row, for a per-CPU map the sum."""
        slots = self._row.iter_unpack(rows.leaves)
        return chain.from_iterable(slots) if self._copies == 1 else map(self._sum, slots)

    def shares(self, rows: Rows) -> Iterator[tuple[int, ...]]:
        """Yield each row's numbers, one per possible CPU."""
        return self._row.iter_unpack(rows.leaves)

    def _sum(self, slots: tuple[int, ...]) -> int:
        total = sum(slots)
        if not self._modulus:
            return total
        total %= self._modulus
        return total - self._modulus if self._signed and total >= self._modulus >> 1 else total


def numbers_by_key(rows: Rows) -> dict[bytes, int]:
    """Return each key's leaf as one number."""
    return dict(zip(rows.keys, ValueReader(rows.shape).totals(rows), strict=True))
