"""Rows as a map of 64-bit numbers holds them, and a target about which nothing is known."""

import struct
from collections.abc import Mapping, Sequence

from ebpf_userspace_exporter.worker.bpf.maps import MapKind, Rows, leaf_copies, leaf_stride
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.image import MapShape


class Nameless:
    """Symbols of a target that has none."""

    def name(self, address: int) -> str:
        return hex(address)


def no_stack(table: str, stack_id: int) -> tuple[int, ...]:
    raise KeyError(table, stack_id)


SURROUNDINGS = Surroundings(pid=7, symbols=Nameless(), read_stack=no_stack)


def shape_of(kind: MapKind, *, max_entries: int = 64, leaf_bytes: int = 8, key_bytes: int = 4) -> MapShape:
    """Return a shape with nothing special about it."""
    return MapShape("rows", kind, key_bytes, leaf_bytes, max_entries, flags=0, built_fd=3)


def rows_of(numbers: Mapping[bytes, int]) -> Rows:
    """Return the rows of a hash of unsigned 64-bit numbers."""
    leaves = {key: struct.pack("=Q", number) for key, number in numbers.items()}
    return rows_with_leaves(leaves, leaf_bytes=8)


def rows_with_leaves(leaves: Mapping[bytes, bytes], *, leaf_bytes: int) -> Rows:
    """Return the rows of a hash of structs."""
    shape = MapShape("rows", MapKind.HASH, 8, leaf_bytes, 64, flags=0, built_fd=0)
    return Rows(shape, list(leaves), b"".join(leaves.values()))


def per_cpu_rows(shares: Mapping[bytes, Sequence[int]], *, leaf_bytes: int = 8) -> Rows:
    """Return the rows of a per-CPU hash of unsigned numbers, given those of the first CPUs."""
    shape = MapShape("rows", MapKind.PERCPU_HASH, 8, leaf_bytes, 64, flags=0, built_fd=0)
    return Rows(shape, list(shares), b"".join(per_cpu_leaves(shape, numbers) for numbers in shares.values()))


def per_cpu_leaves(shape: MapShape, numbers: Sequence[int]) -> bytes:
    """Return one row's leaves, of the shape's width, for all possible CPUs."""
    padded = [*numbers, *[0] * leaf_copies(shape)][: leaf_copies(shape)]
    width = 8 * shape.leaf_bytes
    return b"".join(
        (number % (1 << width)).to_bytes(shape.leaf_bytes, "little").ljust(leaf_stride(shape), b"\0")
        for number in padded
    )
