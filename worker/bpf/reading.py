"""Maps read whole: arrays as memory, others in batches, and key by key where the kernel knows no batches."""

import contextlib
import ctypes
import errno
import mmap
import struct

from ebpf_userspace_exporter.worker.bpf.errors import ENOTSUPP
from ebpf_userspace_exporter.worker.bpf.maps import READABLE_KINDS, Rows, is_memory, leaf_copies, leaf_stride
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapBatch, MapElement, bpf
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_FIRST_BATCH_ROWS = 128
_BATCH_BYTES = 256 << 10  # where growing for speed ends: beyond, a bigger buffer costs more than the calls it saves
_WALK_SLACK = 256
_WALK_REPEATS = 8
_NO_BATCH = frozenset({errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP})


class MapReader:
    """Reads one map over and over, through a descriptor that stays the caller's.

    Nothing that the last read knew is made anew: room for as many rows, the keys if they are the same.
    """

    def __init__(self, map_fd: int, shape: MapShape) -> None:
        if shape.kind not in READABLE_KINDS:
            raise AttachError(Reason.MAP_TYPE, f"map {shape.name}: type {shape.kind} cannot be read")
        self._map_fd = map_fd
        self._shape = shape
        self._memory = _memory(map_fd, shape)
        self._batches = _Batches(map_fd, shape)
        self._raw_keys = b""
        self._rows = Rows(shape, [], b"")

    def read(self) -> Rows:
        """Return every row, in the object of the last time if all are the same; a key that stays is never missing.

        OSError EAGAIN where that cannot be had: the kernel has no BPF_MAP_LOOKUP_BATCH (before 5.6, per-CPU arrays
        before 5.13), and the map changes faster than it can be read key by key.
        """
        try:
            raw_keys, leaves = self._batches.read() if self._memory is None else (self._indices(), self._memory[:])
        except OSError as error:
            if error.errno not in _NO_BATCH:
                raise
            return read_by_key(self._map_fd, self._shape)
        rows = self._rows
        if raw_keys != self._raw_keys:
            self._raw_keys = raw_keys
            self._rows = Rows(self._shape, _split(raw_keys, self._shape.key_bytes), leaves)
        elif leaves != rows.leaves:
            self._rows = Rows(self._shape, rows.keys, leaves)
        return self._rows

    def close(self) -> None:
        """Let go of the map's memory; nothing can be read afterwards."""
        if self._memory is not None:
            self._memory.close()

    def _indices(self) -> bytes:
        """Return an array's keys, one behind the other."""
        return self._raw_keys or struct.pack(f"={self._shape.max_entries}I", *range(self._shape.max_entries))


def read_map(map_fd: int, shape: MapShape) -> Rows:
    """Return every row of a map that is read once, as MapReader does."""
    reader = MapReader(map_fd, shape)
    with contextlib.closing(reader):
        return reader.read()


def read_by_key(map_fd: int, shape: MapShape) -> Rows:
    """Return every row, read key by key.

    After a key that was deleted meanwhile the kernel starts over, so a map under deletion could be walked for ever;
    and a walk cut short would make keys look deleted that are not. Hence: bounded, then OSError EAGAIN.
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


class _Batches:
    """Reads keys and leaves, each one behind the other, with as few calls as there is room for."""

    def __init__(self, map_fd: int, shape: MapShape) -> None:
        self._key_bytes, self._leaf_bytes = shape.key_bytes, leaf_stride(shape) * leaf_copies(shape)
        # Room for one row more than there can be: a full array is then read in one call, not in one and an empty one.
        self._most = max(1, min(shape.max_entries + 1, _BATCH_BYTES // (self._key_bytes + self._leaf_bytes)))
        # Where the kernel is: a bucket's number for hashes, a key for arrays.
        self._cursor = ctypes.create_string_buffer(max(shape.key_bytes, 4))
        self._batch = MapBatch(out_batch=ctypes.addressof(self._cursor), map_fd=map_fd)
        self._room = 0

    def read(self) -> tuple[bytes, bytes]:
        # A hash's bucket is copied whole or not at all, and a key is always in the same one: no key comes twice.
        if not self._room:
            self._make_room(min(_FIRST_BATCH_ROWS, self._most))
        keys, leaves = [], []
        batch = self._batch
        batch.in_batch = 0
        while True:
            batch.count = self._room
            failure = _try_batch(batch)
            if failure == errno.ENOSPC:
                # One bucket holds more than there is room for; nothing was copied, and the place stays the same.
                self._make_room(self._room * 2)
                continue
            keys.append(ctypes.string_at(batch.keys, batch.count * self._key_bytes))
            leaves.append(ctypes.string_at(batch.values, batch.count * self._leaf_bytes))
            if failure == errno.ENOENT:
                return b"".join(keys), b"".join(leaves)
            batch.in_batch = batch.out_batch
            if self._room < self._most:
                self._make_room(min(self._room * 4, self._most))

    def _make_room(self, rows: int) -> None:
        self._room = rows
        self._keys = ctypes.create_string_buffer(rows * self._key_bytes)
        self._leaves = ctypes.create_string_buffer(rows * self._leaf_bytes)
        self._batch.keys, self._batch.values = ctypes.addressof(self._keys), ctypes.addressof(self._leaves)


def _memory(map_fd: int, shape: MapShape) -> mmap.mmap | None:
    """Return the leaves of an array as memory, None where it is another kind or was not made for that."""
    if is_memory(shape):
        with contextlib.suppress(OSError, ValueError):
            return mmap.mmap(map_fd, shape.max_entries * shape.leaf_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
    return None


def _split(raw_keys: bytes, key_bytes: int) -> list[bytes]:
    return [key for (key,) in struct.iter_unpack(f"{key_bytes}s", raw_keys)]


def _try_batch(attributes: MapBatch) -> int:
    """Return 0, or the errno that ends a batch in an ordinary way: ENOENT after the last row, ENOSPC."""
    try:
        bpf(Command.MAP_LOOKUP_BATCH, attributes)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOSPC}:
            raise
        return error.errno
    return 0


def _is_found(command: Command, attributes: MapElement) -> bool:
    try:
        bpf(command, attributes)
    except FileNotFoundError:
        return False
    return True
