"""BPF maps: made by shape, read whole, as raw keys and leaves."""

import ctypes
import errno
import functools
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ebpf_userspace_exporter.worker.bpf.errors import ENOTSUPP, attach_error
from ebpf_userspace_exporter.worker.bpf.syscalls import (
    Command,
    MapBatch,
    MapCreate,
    MapElement,
    bpf,
    bpf_charged,
    object_name,
)
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")
_FIRST_BATCH_ROWS = 128
_BATCH_BYTES = 256 << 10  # where growing for speed ends: beyond, a bigger buffer costs more than the calls it saves
_WALK_SLACK = 256
_WALK_REPEATS = 8
_NO_BATCH = frozenset({errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP})


class MapKind(IntEnum):
    """enum bpf_map_type, as far as a probe's code can define such a map."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERF_EVENT_ARRAY = 4
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    STACK_TRACE = 7
    CGROUP_ARRAY = 8
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    QUEUE = 22
    STACK = 23
    RINGBUF = 27


READABLE_KINDS = frozenset(
    {
        MapKind.HASH,
        MapKind.ARRAY,
        MapKind.PERCPU_HASH,
        MapKind.PERCPU_ARRAY,
        MapKind.LRU_HASH,
        MapKind.LRU_PERCPU_HASH,
    }
)
PER_CPU_KINDS = frozenset({MapKind.PERCPU_HASH, MapKind.PERCPU_ARRAY, MapKind.LRU_PERCPU_HASH})
EVENT_KINDS = frozenset({MapKind.PERF_EVENT_ARRAY, MapKind.RINGBUF})
_INNER_KINDS = frozenset({MapKind.ARRAY_OF_MAPS, MapKind.HASH_OF_MAPS})


@dataclass(frozen=True, slots=True)
class Rows:
    """What a map of this shape held: its keys, each once, and their leaves one behind the other.

    The leaves are as the kernel copies them: of a per-CPU map one for each possible CPU, each padded to 8 bytes.
    """

    shape: MapShape
    keys: list[bytes]
    leaves: bytes


def create_map(shape: MapShape) -> int:
    """Return the descriptor of a new, empty map; AttachError where it cannot be made."""
    if shape.kind in _INNER_KINDS:
        raise AttachError(Reason.MAP_TYPE, f"map {shape.name}: a map of maps ({MapKind(shape.kind).name}), unsupported")
    max_entries = shape.max_entries
    if shape.kind == MapKind.PERF_EVENT_ARRAY and not max_entries:
        max_entries = possible_cpus()  # BPF_PERF_OUTPUT leaves it to the loader
    attributes = MapCreate(
        map_type=shape.kind,
        key_size=shape.key_bytes,
        value_size=shape.leaf_bytes,
        max_entries=max_entries,
        map_flags=shape.flags,
        map_name=object_name(shape.name),
    )
    try:
        return bpf_charged(Command.MAP_CREATE, attributes)
    except OSError as error:
        doing = (
            f"create map {shape.name} (type {shape.kind}, key {shape.key_bytes} bytes, leaf {shape.leaf_bytes} bytes, "
            f"{max_entries} entries, flags {shape.flags:#x})"
        )
        # EINVAL and E2BIG are about the shape, so about the code: they would come again.
        about_shape = error.errno in {errno.EINVAL, errno.E2BIG}
        raise attach_error(error, doing, otherwise=Reason.MAP_TYPE if about_shape else Reason.ATTACH) from error


def read_map(map_fd: int, shape: MapShape, *, batch: bool = True) -> Rows:
    """Return every row; a key that is there all the while is never missing.

    `batch=False` reads key by key, as is done anyway where the kernel has no BPF_MAP_LOOKUP_BATCH (before 5.6, per-CPU
    arrays before 5.13).
    OSError EAGAIN: read key by key, the map changes faster than it can be read, so that rows would be missing.
    """
    if shape.kind not in READABLE_KINDS:
        raise AttachError(Reason.MAP_TYPE, f"map {shape.name}: type {shape.kind} cannot be read")
    if batch:
        try:
            return _read_batches(map_fd, shape)
        except OSError as error:
            if error.errno not in _NO_BATCH:
                raise
    return _walk(map_fd, shape)


def leaf_stride(shape: MapShape) -> int:
    """Return how many bytes the kernel copies out for one leaf, for a per-CPU map those of one CPU."""
    return (shape.leaf_bytes + 7) // 8 * 8 if shape.kind in PER_CPU_KINDS else shape.leaf_bytes


def leaf_copies(shape: MapShape) -> int:
    """Return how many leaves a row has."""
    return possible_cpus() if shape.kind in PER_CPU_KINDS else 1


def possible_cpus() -> int:
    """Return for how many CPUs the kernel keeps per-CPU values: those that could be plugged in, not those online."""
    return len(possible_cpu_numbers())


@functools.cache
def possible_cpu_numbers() -> tuple[int, ...]:
    """Return these CPUs' numbers, in the order in which a row has their leaves; some numbers may be left out."""
    spans = (span.partition("-") for span in _POSSIBLE_CPUS.read_text().strip().split(","))
    return tuple(cpu for first, _, last in spans for cpu in range(int(first), int(last or first) + 1))


def _read_batches(map_fd: int, shape: MapShape) -> Rows:
    # A hash's bucket is copied whole or not at all, and a key is always in the same one: no key comes twice.
    found: list[bytes] = []
    leaves: list[bytes] = []
    key_format, leaf_bytes = f"{shape.key_bytes}s", leaf_stride(shape) * leaf_copies(shape)
    # Room for one row more than there can be: a full array is then read in one call, not in one and an empty one.
    most = max(1, min(shape.max_entries + 1, _BATCH_BYTES // (shape.key_bytes + leaf_bytes)))
    room = min(_FIRST_BATCH_ROWS, most)
    cursor_bytes = max(shape.key_bytes, 4)  # a bucket's number for hashes, a key for arrays
    position, following = ctypes.create_string_buffer(cursor_bytes), ctypes.create_string_buffer(cursor_bytes)
    started = False
    keys, values = bytearray(room * shape.key_bytes), bytearray(room * leaf_bytes)
    while True:
        attributes = MapBatch(
            in_batch=ctypes.addressof(position) if started else 0,
            out_batch=ctypes.addressof(following),
            keys=_address(keys),
            values=_address(values),
            count=room,
            map_fd=map_fd,
        )
        failure = _try_batch(attributes)
        if failure == errno.ENOSPC:
            # One bucket holds more than there is room for; nothing was copied, and the place stays the same.
            room *= 2
        else:
            count = attributes.count
            found += [key for (key,) in struct.iter_unpack(key_format, memoryview(keys)[: count * shape.key_bytes])]
            leaves.append(bytes(memoryview(values)[: count * leaf_bytes]))
            if failure == errno.ENOENT:
                return Rows(shape, found, b"".join(leaves))
            position, following, started = following, position, True
            if room >= most:
                continue
            room = min(room * 4, most)
        keys, values = bytearray(room * shape.key_bytes), bytearray(room * leaf_bytes)


def _try_batch(attributes: MapBatch) -> int:
    """Return 0, or the errno that ends a batch in an ordinary way: ENOENT after the last row, ENOSPC."""
    try:
        bpf(Command.MAP_LOOKUP_BATCH, attributes)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOSPC}:
            raise
        return error.errno
    return 0


def _walk(map_fd: int, shape: MapShape) -> Rows:
    """Read key by key.

    After a key that was deleted meanwhile the kernel starts over, so a map under deletion could be walked for ever;
    and a walk cut short would make keys look deleted that are not. Hence: bounded, then EAGAIN.
    """
    rows: dict[bytes, bytes] = {}
    key = ctypes.create_string_buffer(shape.key_bytes)
    value = ctypes.create_string_buffer(leaf_stride(shape) * leaf_copies(shape))
    step = MapElement(map_fd=map_fd, key=0, value=ctypes.addressof(key))
    lookup = MapElement(map_fd=map_fd, key=ctypes.addressof(key), value=ctypes.addressof(value))
    repeats = 0
    for _ in range(_WALK_REPEATS * shape.max_entries + _WALK_SLACK):
        if not _is_found(Command.MAP_GET_NEXT_KEY, step):
            return Rows(shape, list(rows), b"".join(rows.values()))
        step.key = ctypes.addressof(key)
        if key.raw in rows:
            repeats += 1
            if repeats > _WALK_REPEATS * len(rows) + _WALK_SLACK:
                break
        elif _is_found(Command.MAP_LOOKUP_ELEM, lookup):
            rows[key.raw] = value.raw
    raise BlockingIOError(errno.EAGAIN, f"map {shape.name} changes faster than it can be read key by key")


def _is_found(command: Command, attributes: MapElement) -> bool:
    try:
        bpf(command, attributes)
    except FileNotFoundError:
        return False
    return True


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
