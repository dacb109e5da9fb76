"""Maps are read whole: as memory, in one call per many rows, or key by key."""

import ctypes
import errno
import mmap
import os
import signal
import struct
import threading
from collections.abc import Callable

import pytest

from ebpf_userspace_exporter.worker.bpf.maps import PER_CPU_KINDS, READABLE_KINDS, MapKind, Rows, possible_cpus
from ebpf_userspace_exporter.worker.bpf.reading import MapReader, read_by_key, read_map
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapCreate, MapElement, bpf
from ebpf_userspace_exporter.worker.bpf.values import numbers_by_key
from ebpf_userspace_exporter.worker.image import MapShape
from tests.worker.map_contents import shape_of

pytestmark = pytest.mark.bpf

Update = Callable[[int, bytes, bytes], None]
Create = Callable[[MapShape], int]
Read = Callable[[int, MapShape], Rows]
BOTH_WAYS = pytest.mark.parametrize("read", [read_map, read_by_key], ids=["whole", "key by key"])


def leaf_for(shape: MapShape, numbers: list[int]) -> bytes:
    """Pack what an update takes: one leaf, or per-CPU ones rounded up to 8 bytes."""
    if shape.kind not in PER_CPU_KINDS:
        return numbers[0].to_bytes(shape.leaf_bytes, "little")
    stride = (shape.leaf_bytes + 7) // 8 * 8
    padded = (numbers + [0] * possible_cpus())[: possible_cpus()]
    return b"".join(number.to_bytes(shape.leaf_bytes, "little").ljust(stride, b"\0") for number in padded)


def delete(map_fd: int, key: bytes) -> None:
    raw = ctypes.create_string_buffer(key, len(key))
    bpf(Command.MAP_DELETE_ELEM, MapElement(map_fd=map_fd, key=ctypes.addressof(raw)))


@BOTH_WAYS
@pytest.mark.parametrize("kind", sorted(READABLE_KINDS), ids=lambda kind: kind.name)
def test_every_row_of_every_readable_kind_is_read(
    kind: MapKind, read: Read, create: Create, update_map: Update
) -> None:
    shape = shape_of(kind)
    map_fd = create(shape)
    for number in range(shape.max_entries // 2):
        update_map(map_fd, struct.pack("<I", number), leaf_for(shape, [number * 1000 + 1]))

    rows = read(map_fd, shape)

    filled = {struct.pack("<I", number): number * 1000 + 1 for number in range(32)}
    untouched = {struct.pack("<I", number): 0 for number in range(32, 64)}
    assert len(rows.keys) == len(set(rows.keys))
    assert numbers_by_key(rows) == (filled | untouched if kind in {MapKind.ARRAY, MapKind.PERCPU_ARRAY} else filled)


@BOTH_WAYS
def test_an_empty_hash_has_no_rows(read: Read, create: Create) -> None:
    shape = shape_of(MapKind.HASH)

    assert read(create(shape), shape) == Rows(shape, [], b"")


@BOTH_WAYS
@pytest.mark.parametrize("key_bytes", [4, 24], ids=["short keys", "long keys"])
def test_ten_thousand_rows_are_read(read: Read, key_bytes: int, create: Create, update_map: Update) -> None:
    shape = shape_of(MapKind.HASH, max_entries=10_240, key_bytes=key_bytes)
    map_fd = create(shape)
    expected = {number.to_bytes(key_bytes, "big"): number + 5 for number in range(10_000)}
    for key, value in expected.items():
        update_map(map_fd, key, struct.pack("<Q", value))

    rows = read(map_fd, shape)

    assert len(rows.keys) == 10_000
    assert numbers_by_key(rows) == expected


@pytest.mark.parametrize("kind", [MapKind.HASH, MapKind.ARRAY], ids=["hash", "array"])
def test_a_leaf_larger_than_the_buffer_grows_the_buffer(kind: MapKind, create: Create, update_map: Update) -> None:
    shape = shape_of(kind, leaf_bytes=200_000, max_entries=40)
    map_fd = create(shape)
    for number in range(40):
        update_map(map_fd, struct.pack("<I", number), leaf_for(shape, [number + 1]))

    assert sorted(numbers_by_key(read_map(map_fd, shape)).values()) == list(range(1, 41))


@BOTH_WAYS
@pytest.mark.parametrize("leaf_bytes", [1, 2, 4, 8])
def test_a_leaf_is_an_unsigned_integer_of_its_width(
    leaf_bytes: int, read: Read, create: Create, update_map: Update
) -> None:
    shape = shape_of(MapKind.HASH, leaf_bytes=leaf_bytes)
    map_fd = create(shape)
    update_map(map_fd, b"aaaa", b"\xff" * leaf_bytes)
    update_map(map_fd, b"bbbb", b"\x07".ljust(leaf_bytes, b"\0"))

    assert numbers_by_key(read(map_fd, shape)) == {b"aaaa": 256**leaf_bytes - 1, b"bbbb": 7}


@BOTH_WAYS
def test_of_a_larger_leaf_the_first_eight_bytes_count(read: Read, create: Create, update_map: Update) -> None:
    shape = shape_of(MapKind.HASH, leaf_bytes=20)
    map_fd = create(shape)
    update_map(map_fd, b"aaaa", struct.pack("<QQI", 41, 42, 43))
    update_map(map_fd, b"bbbb", struct.pack("<QQI", 51, 52, 53))

    assert numbers_by_key(read(map_fd, shape)) == {b"aaaa": 41, b"bbbb": 51}


@BOTH_WAYS
@pytest.mark.parametrize("leaf_bytes", [4, 8, 12])
@pytest.mark.parametrize("kind", sorted(PER_CPU_KINDS), ids=lambda kind: kind.name)
def test_per_cpu_leaves_are_summed(
    kind: MapKind, leaf_bytes: int, read: Read, create: Create, update_map: Update
) -> None:
    shape = shape_of(kind, leaf_bytes=leaf_bytes, max_entries=3)
    map_fd = create(shape)
    slots = [10 + cpu for cpu in range(possible_cpus())]
    for number in range(3):
        update_map(map_fd, struct.pack("<I", number), leaf_for(shape, [slot * (number + 1) for slot in slots]))

    rows = read(map_fd, shape)
    assert sorted(numbers_by_key(rows).values()) == [sum(slots) * number for number in (1, 2, 3)]


def test_a_full_array_is_read_in_one_call(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of(MapKind.ARRAY, max_entries=64, leaf_bytes=4)
    map_fd = create(shape)
    commands: list[Command] = []

    def counted(command: Command, attributes: ctypes.Structure) -> int:
        commands.append(command)
        return bpf(command, attributes)

    monkeypatch.setattr("ebpf_userspace_exporter.worker.bpf.reading.bpf", counted)

    assert len(read_map(map_fd, shape).keys) == 64
    assert commands == [Command.MAP_LOOKUP_BATCH]


@BOTH_WAYS
def test_keys_that_stay_are_read_once_while_others_come_and_go(read: Read, create: Create, update_map: Update) -> None:
    shape = shape_of(MapKind.HASH, max_entries=2048)
    map_fd = create(shape)
    staying = {struct.pack("<I", number): number for number in range(1000)}
    for key, value in staying.items():
        update_map(map_fd, key, struct.pack("<Q", value))
    stop, rounds = threading.Event(), 0

    def churn() -> None:
        nonlocal rounds
        while not stop.is_set():
            passing = [struct.pack("<I", number) for number in range(10_000, 10_050)]
            for key in passing:
                update_map(map_fd, key, bytes(8))
            for key in passing:
                delete(map_fd, key)
            rounds += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        readings = [read(map_fd, shape) for _ in range(40)]
    finally:
        stop.set()
        thread.join()

    assert rounds
    for rows in readings:
        assert len(rows.keys) == len(set(rows.keys))
        assert {key: value for key, value in numbers_by_key(rows).items() if key in staying} == staying


def test_a_walk_that_always_starts_over_ends_in_an_error(
    create: Create, update_map: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key is deleted right after it was read: what a busy program does to the worst walk."""
    shape = shape_of(MapKind.HASH, max_entries=64)
    map_fd = create(shape)
    for number in range(64):
        update_map(map_fd, struct.pack("<I", number), bytes(8))

    def delete_and_insert_after(command: Command, attributes: MapElement) -> int:
        result = bpf(command, attributes)
        if command is Command.MAP_LOOKUP_ELEM:
            key = ctypes.string_at(attributes.key, 4)
            delete(map_fd, key)
            update_map(map_fd, struct.pack("<I", struct.unpack("<I", key)[0] + 64), bytes(8))
        return result

    monkeypatch.setattr("ebpf_userspace_exporter.worker.bpf.reading.bpf", delete_and_insert_after)

    with pytest.raises(BlockingIOError, match="rows changes faster"):
        read_by_key(map_fd, shape)


def test_a_key_that_vanishes_before_its_lookup_is_left_out(
    create: Create, update_map: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(MapKind.HASH)
    map_fd = create(shape)
    for number in range(10):
        update_map(map_fd, struct.pack("<I", number), struct.pack("<Q", number))
    victim = struct.pack("<I", 4)

    def delete_before(command: Command, attributes: MapElement) -> int:
        if command is Command.MAP_LOOKUP_ELEM and ctypes.string_at(attributes.key, 4) == victim:
            delete(map_fd, victim)
        return bpf(command, attributes)

    monkeypatch.setattr("ebpf_userspace_exporter.worker.bpf.reading.bpf", delete_before)

    assert sorted(numbers_by_key(read_by_key(map_fd, shape)).values()) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, 524], ids=["EINVAL", "EOPNOTSUPP", "ENOTSUPP"])
def test_without_batches_in_the_kernel_the_map_is_read_key_by_key(
    number: int, create: Create, update_map: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(MapKind.HASH)
    map_fd = create(shape)
    update_map(map_fd, b"aaaa", struct.pack("<Q", 9))

    def refuse_batch(command: Command, attributes: MapElement) -> int:
        if command is Command.MAP_LOOKUP_BATCH:
            raise OSError(number, "as an old kernel")
        return bpf(command, attributes)

    monkeypatch.setattr("ebpf_userspace_exporter.worker.bpf.reading.bpf", refuse_batch)

    assert numbers_by_key(read_map(map_fd, shape)) == {b"aaaa": 9}


def test_an_array_is_read_without_a_system_call(
    create: Create, update_map: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(MapKind.ARRAY, max_entries=1000)
    map_fd = create(shape)
    reader = MapReader(map_fd, shape)
    update_map(map_fd, struct.pack("<I", 999), struct.pack("<Q", 7))

    def refuse(command: Command, attributes: MapElement) -> int:
        raise AssertionError(command)

    monkeypatch.setattr("ebpf_userspace_exporter.worker.bpf.reading.bpf", refuse)

    assert numbers_by_key(reader.read()) == {struct.pack("<I", key): 7 * (key == 999) for key in range(1000)}
    reader.close()


def test_an_array_that_the_kernel_does_not_show_as_memory_is_read_all_the_same(
    create: Create, update_map: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_an_old_kernel(command: Command, attributes: MapCreate) -> int:
        if attributes.map_flags & 1 << 10:
            raise OSError(errno.EINVAL, "BPF_F_MMAPABLE is not known")
        return bpf(command, attributes)

    monkeypatch.setattr("ebpf_userspace_exporter.worker.bpf.maps.bpf_charged", as_an_old_kernel)
    shape = shape_of(MapKind.ARRAY)
    map_fd = create(shape)
    update_map(map_fd, struct.pack("<I", 5), struct.pack("<Q", 7))

    with pytest.raises(OSError, match="Invalid argument"):
        mmap.mmap(map_fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
    assert numbers_by_key(read_map(map_fd, shape)) == {struct.pack("<I", key): 7 * (key == 5) for key in range(64)}


@pytest.mark.parametrize("leaf_bytes", [4, 12, 16])
def test_leaves_of_any_size_lie_one_behind_the_other(leaf_bytes: int, create: Create, update_map: Update) -> None:
    """As memory the kernel has gaps between those that are no multiple of eight bytes."""
    shape = shape_of(MapKind.ARRAY, leaf_bytes=leaf_bytes, max_entries=3)
    map_fd = create(shape)
    leaves = [bytes([number + 1]) * leaf_bytes for number in range(3)]
    for number, leaf in enumerate(leaves):
        update_map(map_fd, struct.pack("<I", number), leaf)

    assert read_map(map_fd, shape).leaves == b"".join(leaves)


@pytest.mark.parametrize("kind", [MapKind.ARRAY, MapKind.HASH, MapKind.PERCPU_HASH], ids=lambda kind: kind.name)
def test_what_has_not_changed_is_the_same_object(kind: MapKind, create: Create, update_map: Update) -> None:
    shape = shape_of(kind)
    map_fd = create(shape)
    reader = MapReader(map_fd, shape)
    update_map(map_fd, struct.pack("<I", 5), leaf_for(shape, [7]))
    first = reader.read()

    assert reader.read() is first

    update_map(map_fd, struct.pack("<I", 5), leaf_for(shape, [8]))
    second = reader.read()

    assert second.keys is first.keys
    assert numbers_by_key(first)[struct.pack("<I", 5)] == 7
    assert numbers_by_key(second)[struct.pack("<I", 5)] == 8
    reader.close()


def test_keys_that_come_and_go_are_met_by_a_reader_that_knows_others(create: Create, update_map: Update) -> None:
    """More of them than it has had room for, then fewer."""
    shape = shape_of(MapKind.HASH, max_entries=4096)
    map_fd = create(shape)
    reader = MapReader(map_fd, shape)
    present: dict[bytes, int] = {}
    for number in range(3000):
        key = struct.pack("<I", number)
        update_map(map_fd, key, struct.pack("<Q", number))
        present[key] = number
        if number in {0, 1, 200, 2999}:
            assert numbers_by_key(reader.read()) == present
    for number in range(2990):
        delete(map_fd, struct.pack("<I", number))
        del present[struct.pack("<I", number)]

    assert numbers_by_key(reader.read()) == present


def test_a_successor_reads_through_the_descriptor_that_it_inherits(create: Create, update_map: Update) -> None:
    shape = shape_of(MapKind.ARRAY)
    map_fd = create(shape)
    predecessor = MapReader(map_fd, shape)
    predecessor.read()
    successor = MapReader(map_fd, shape)
    predecessor.close()
    update_map(map_fd, struct.pack("<I", 1), struct.pack("<Q", 9))

    assert numbers_by_key(successor.read())[struct.pack("<I", 1)] == 9
    successor.close()


@pytest.mark.parametrize("max_entries", [64, 4096])
def test_no_number_of_an_array_is_read_while_half_of_it_is_written(max_entries: int, create: Create) -> None:
    """Two numbers that differ in every byte; any mixture of them is neither."""
    shape = shape_of(MapKind.ARRAY, max_entries=max_entries)
    map_fd = create(shape)
    one, other = 0x1111111111111111, 0x6666666666666666
    writer = os.fork()
    if writer == 0:
        try:
            with mmap.mmap(map_fd, 8 * max_entries) as written:
                numbers = memoryview(written).cast("Q")
                while True:
                    for number in (one, other):
                        for place in range(max_entries):
                            numbers[place] = number
        finally:
            os._exit(1)
    try:
        reader = MapReader(map_fd, shape)
        seen: set[int] = set()
        for _ in range(20_000_000 // max_entries // 20):
            seen.update(numbers_by_key(reader.read()).values())
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    reader.close()

    assert {one, other} <= seen <= {0, one, other}
