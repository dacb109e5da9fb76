"""BPF maps: what kinds there are, how their rows lie in memory, and how they are made."""

import errno
import functools
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ebpf_userspace_exporter.worker.bpf.errors import attach_error
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapCreate, bpf_charged, object_name
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")
_MMAPABLE = 1 << 10  # BPF_F_MMAPABLE


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
        map_flags=shape.flags | (_MMAPABLE if is_memory(shape) else 0),
        map_name=object_name(shape.name),
    )
    try:
        return _make(attributes)
    except OSError as error:
        doing = (
            f"create map {shape.name} (type {shape.kind}, key {shape.key_bytes} bytes, leaf {shape.leaf_bytes} bytes, "
            f"{max_entries} entries, flags {shape.flags:#x})"
        )
        # EINVAL and E2BIG are about the shape, so about the code: they would come again.
        about_shape = error.errno in {errno.EINVAL, errno.E2BIG}
        raise attach_error(error, doing, otherwise=Reason.MAP_TYPE if about_shape else Reason.ATTACH) from error


def is_memory(shape: MapShape) -> bool:
    """Say whether a map of this shape is made so that it can be read as memory: an array whose leaves have no gaps."""
    return shape.kind == MapKind.ARRAY and not shape.flags and shape.leaf_bytes % 8 == 0


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


def _make(attributes: MapCreate) -> int:
    try:
        return bpf_charged(Command.MAP_CREATE, attributes)
    except OSError as error:
        if error.errno != errno.EINVAL or not attributes.map_flags & _MMAPABLE:
            raise
    attributes.map_flags &= ~_MMAPABLE  # not known before Linux 5.5: the array is read by system calls
    return bpf_charged(Command.MAP_CREATE, attributes)
