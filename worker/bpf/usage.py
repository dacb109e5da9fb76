"""What maps and programs take up: rows, memory, time."""

import ctypes
import errno
from dataclasses import dataclass, replace

from ebpf_userspace_exporter.worker.bpf.errors import ENOTSUPP
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, leaf_copies, leaf_stride
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapBatch, ObjectInfo, ProgramInfo, bpf
from ebpf_userspace_exporter.worker.image import MapShape

# Of an array every row is always there.
_COUNTED_KINDS = frozenset(
    {
        MapKind.HASH,
        MapKind.PERCPU_HASH,
        MapKind.LRU_HASH,
        MapKind.LRU_PERCPU_HASH,
    }
)
_NO_PREALLOC = 1  # BPF_F_NO_PREALLOC: memory is taken as keys come
_BATCH_BYTES = 64 << 10
_NO_BATCH = frozenset({errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP})


@dataclass(frozen=True, slots=True)
class MapUsage:
    """How full a map is, None where that has no meaning or cannot be told, and the kernel memory that it takes."""

    entries: int | None
    max_entries: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class FunctionUsage:
    """How often a loaded function ran, and for how long, while the kernel was told to keep count."""

    runs: int
    seconds: float


def map_usage(map_fd: int, shape: MapShape, entries: int | None = None, known: MapUsage | None = None) -> MapUsage:
    """Return a map's usage; `entries`, where they are known, spare counting a hash's, and `known` what stays the same.

    `known` is what was said of this map before: most maps have all their memory from the start.
    """
    if entries is None or shape.kind not in _COUNTED_KINDS:
        entries = count_entries(map_fd, shape)
    if known is not None and not shape.flags & _NO_PREALLOC:
        return known if known.entries == entries else replace(known, entries=entries)
    fields = _describe(map_fd)
    return MapUsage(entries, int(fields["max_entries"]), int(fields["memlock"]))


def function_usage(program_fd: int) -> FunctionUsage:
    """Return a loaded program's usage; none where kernel.bpf_stats_enabled is 0, and before Linux 5.1."""
    found = ProgramInfo()
    bpf(
        Command.OBJ_GET_INFO_BY_FD,
        ObjectInfo(bpf_fd=program_fd, info_len=ctypes.sizeof(found), info=ctypes.addressof(found)),
    )
    return FunctionUsage(found.run_cnt, found.run_time_ns / 1e9)


def count_entries(map_fd: int, shape: MapShape) -> int | None:
    """Return how many keys a hash has, without keeping them; None for other kinds, and before Linux 5.6."""
    if shape.kind not in _COUNTED_KINDS:
        return None
    row_bytes = shape.key_bytes + leaf_stride(shape) * leaf_copies(shape)
    room = max(1, min(shape.max_entries, _BATCH_BYTES // row_bytes))
    cursor = ctypes.create_string_buffer(max(shape.key_bytes, 4))
    place = entries = 0
    while True:
        keys = ctypes.create_string_buffer(room * shape.key_bytes)
        leaves = ctypes.create_string_buffer(room * (row_bytes - shape.key_bytes))
        batch = MapBatch(
            in_batch=place,
            out_batch=ctypes.addressof(cursor),
            keys=ctypes.addressof(keys),
            values=ctypes.addressof(leaves),
            count=room,
            map_fd=map_fd,
        )
        try:
            bpf(Command.MAP_LOOKUP_BATCH, batch)
        except FileNotFoundError:
            return entries + int(batch.count)
        except OSError as error:
            if error.errno in _NO_BATCH:
                return None
            if error.errno != errno.ENOSPC:
                raise
            room *= 2  # one bucket holds more; nothing was copied, and the place stays the same
            continue
        entries += int(batch.count)
        place = ctypes.addressof(cursor)


def _describe(descriptor: int) -> dict[str, str]:
    with open(f"/proc/self/fdinfo/{descriptor}", "rb", buffering=0) as file:  # noqa: PTH123 - pathlib does much more
        lines = file.read().decode().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
