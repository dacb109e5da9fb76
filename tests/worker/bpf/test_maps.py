"""Maps are made as described and read whole, in one call per many rows or key by key."""

import ctypes
import errno
import os
import resource
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.bpf import maps
from ebpf_userspace_exporter.worker.bpf.maps import (
    PER_CPU_KINDS,
    READABLE_KINDS,
    MapKind,
    Rows,
    create_map,
    possible_cpu_numbers,
    possible_cpus,
    read_map,
)
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapElement, bpf
from ebpf_userspace_exporter.worker.bpf.values import numbers_by_key
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

pytestmark = pytest.mark.bpf

Update = Callable[[int, bytes, bytes], None]
BOTH_WAYS = pytest.mark.parametrize("batch", [True, False], ids=["batch", "key by key"])


def shape_of(kind: MapKind, *, max_entries: int = 64, leaf_bytes: int = 8, key_bytes: int = 4) -> MapShape:
    return MapShape("rows", kind, key_bytes, leaf_bytes, max_entries, flags=0, built_fd=3)


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
    kind: MapKind, batch: bool, create: Callable[[MapShape], int], update_map: Update
) -> None:
    shape = shape_of(kind)
    map_fd = create(shape)
    for number in range(shape.max_entries // 2):
        update_map(map_fd, struct.pack("<I", number), leaf_for(shape, [number * 1000 + 1]))

    rows = read_map(map_fd, shape, batch=batch)

    filled = {struct.pack("<I", number): number * 1000 + 1 for number in range(32)}
    untouched = {struct.pack("<I", number): 0 for number in range(32, 64)}
    assert len(rows.keys) == len(set(rows.keys))
    assert numbers_by_key(rows) == (filled | untouched if kind in {MapKind.ARRAY, MapKind.PERCPU_ARRAY} else filled)


@BOTH_WAYS
def test_an_empty_hash_has_no_rows(batch: bool, create: Callable[[MapShape], int]) -> None:
    shape = shape_of(MapKind.HASH)

    assert read_map(create(shape), shape, batch=batch) == Rows(shape, [], b"")


@BOTH_WAYS
@pytest.mark.parametrize("key_bytes", [4, 24], ids=["short keys", "long keys"])
def test_ten_thousand_rows_are_read(
    batch: bool, key_bytes: int, create: Callable[[MapShape], int], update_map: Update
) -> None:
    shape = shape_of(MapKind.HASH, max_entries=10_240, key_bytes=key_bytes)
    map_fd = create(shape)
    expected = {number.to_bytes(key_bytes, "big"): number + 5 for number in range(10_000)}
    for key, value in expected.items():
        update_map(map_fd, key, struct.pack("<Q", value))

    rows = read_map(map_fd, shape, batch=batch)

    assert len(rows.keys) == 10_000
    assert numbers_by_key(rows) == expected


@pytest.mark.parametrize("kind", [MapKind.HASH, MapKind.ARRAY], ids=["hash", "array"])
def test_a_leaf_larger_than_the_buffer_grows_the_buffer(
    kind: MapKind, create: Callable[[MapShape], int], update_map: Update
) -> None:
    shape = shape_of(kind, leaf_bytes=200_000, max_entries=40)
    map_fd = create(shape)
    for number in range(40):
        update_map(map_fd, struct.pack("<I", number), leaf_for(shape, [number + 1]))

    assert sorted(numbers_by_key(read_map(map_fd, shape)).values()) == list(range(1, 41))


@BOTH_WAYS
@pytest.mark.parametrize("leaf_bytes", [1, 2, 4, 8])
def test_a_leaf_is_an_unsigned_integer_of_its_width(
    leaf_bytes: int, batch: bool, create: Callable[[MapShape], int], update_map: Update
) -> None:
    shape = shape_of(MapKind.HASH, leaf_bytes=leaf_bytes)
    map_fd = create(shape)
    update_map(map_fd, b"aaaa", b"\xff" * leaf_bytes)
    update_map(map_fd, b"bbbb", b"\x07".ljust(leaf_bytes, b"\0"))

    assert numbers_by_key(read_map(map_fd, shape, batch=batch)) == {b"aaaa": 256**leaf_bytes - 1, b"bbbb": 7}


@BOTH_WAYS
def test_of_a_larger_leaf_the_first_eight_bytes_count(
    batch: bool, create: Callable[[MapShape], int], update_map: Update
) -> None:
    shape = shape_of(MapKind.HASH, leaf_bytes=20)
    map_fd = create(shape)
    update_map(map_fd, b"aaaa", struct.pack("<QQI", 41, 42, 43))
    update_map(map_fd, b"bbbb", struct.pack("<QQI", 51, 52, 53))

    assert numbers_by_key(read_map(map_fd, shape, batch=batch)) == {b"aaaa": 41, b"bbbb": 51}


@BOTH_WAYS
@pytest.mark.parametrize("leaf_bytes", [4, 8, 12])
@pytest.mark.parametrize("kind", sorted(PER_CPU_KINDS), ids=lambda kind: kind.name)
def test_per_cpu_leaves_are_summed(
    kind: MapKind, leaf_bytes: int, batch: bool, create: Callable[[MapShape], int], update_map: Update
) -> None:
    shape = shape_of(kind, leaf_bytes=leaf_bytes, max_entries=3)
    map_fd = create(shape)
    slots = [10 + cpu for cpu in range(possible_cpus())]
    for number in range(3):
        update_map(map_fd, struct.pack("<I", number), leaf_for(shape, [slot * (number + 1) for slot in slots]))

    rows = read_map(map_fd, shape, batch=batch)
    assert sorted(numbers_by_key(rows).values()) == [sum(slots) * number for number in (1, 2, 3)]


def test_possible_cpus_are_those_of_the_kernels_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "possible").write_text("0-2,5,8-9\n")
    monkeypatch.setattr(maps, "_POSSIBLE_CPUS", tmp_path / "possible")

    assert possible_cpu_numbers.__wrapped__() == (0, 1, 2, 5, 8, 9)


def test_a_full_array_is_read_in_one_call(create: Callable[[MapShape], int], monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of(MapKind.ARRAY, max_entries=64)
    map_fd = create(shape)
    commands: list[Command] = []

    def counted(command: Command, attributes: ctypes.Structure) -> int:
        commands.append(command)
        return bpf(command, attributes)

    monkeypatch.setattr(maps, "bpf", counted)

    assert len(read_map(map_fd, shape).keys) == 64
    assert commands == [Command.MAP_LOOKUP_BATCH]


@BOTH_WAYS
def test_keys_that_stay_are_read_once_while_others_come_and_go(
    batch: bool, create: Callable[[MapShape], int], update_map: Update
) -> None:
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
        readings = [read_map(map_fd, shape, batch=batch) for _ in range(40)]
    finally:
        stop.set()
        thread.join()

    assert rounds
    for rows in readings:
        assert len(rows.keys) == len(set(rows.keys))
        assert {key: value for key, value in numbers_by_key(rows).items() if key in staying} == staying


def test_a_walk_that_always_starts_over_ends_in_an_error(
    create: Callable[[MapShape], int], update_map: Update, monkeypatch: pytest.MonkeyPatch
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

    monkeypatch.setattr("ebpf_userspace_exporter.worker.bpf.maps.bpf", delete_and_insert_after)

    with pytest.raises(BlockingIOError, match="rows changes faster"):
        read_map(map_fd, shape, batch=False)


def test_a_key_that_vanishes_before_its_lookup_is_left_out(
    create: Callable[[MapShape], int], update_map: Update, monkeypatch: pytest.MonkeyPatch
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

    monkeypatch.setattr("ebpf_userspace_exporter.worker.bpf.maps.bpf", delete_before)

    assert sorted(numbers_by_key(read_map(map_fd, shape, batch=False)).values()) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, 524], ids=["EINVAL", "EOPNOTSUPP", "ENOTSUPP"])
def test_without_batches_in_the_kernel_the_map_is_read_key_by_key(
    number: int, create: Callable[[MapShape], int], update_map: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(MapKind.HASH)
    map_fd = create(shape)
    update_map(map_fd, b"aaaa", struct.pack("<Q", 9))

    def refuse_batch(command: Command, attributes: MapElement) -> int:
        if command is Command.MAP_LOOKUP_BATCH:
            raise OSError(number, "as an old kernel")
        return bpf(command, attributes)

    monkeypatch.setattr("ebpf_userspace_exporter.worker.bpf.maps.bpf", refuse_batch)

    assert numbers_by_key(read_map(map_fd, shape)) == {b"aaaa": 9}


@pytest.mark.parametrize(
    ("kind", "key_bytes", "leaf_bytes", "max_entries"),
    [
        (MapKind.PERF_EVENT_ARRAY, 4, 4, 0),
        (MapKind.PROG_ARRAY, 4, 4, 8),
        (MapKind.STACK_TRACE, 4, 127 * 8, 16),
        (MapKind.RINGBUF, 0, 0, 4096),
    ],
    ids=lambda value: value.name if isinstance(value, MapKind) else str(value),
)
def test_maps_that_only_the_program_uses_are_created(
    kind: MapKind, key_bytes: int, leaf_bytes: int, max_entries: int, create: Callable[[MapShape], int]
) -> None:
    shape = MapShape("events", kind, key_bytes, leaf_bytes, max_entries, flags=0, built_fd=3)

    map_fd = create(shape)

    with pytest.raises(AttachError) as caught:
        read_map(map_fd, shape)
    assert caught.value.reason is Reason.MAP_TYPE


@pytest.mark.parametrize("kind", [MapKind.ARRAY_OF_MAPS, MapKind.HASH_OF_MAPS], ids=lambda kind: kind.name)
def test_maps_of_maps_are_refused_by_name(kind: MapKind) -> None:
    with pytest.raises(AttachError, match=f"map rows: a map of maps .{kind.name}") as caught:
        create_map(shape_of(kind))

    assert caught.value.reason is Reason.MAP_TYPE


def test_a_shape_that_the_kernel_refuses_is_a_map_type_error_with_its_numbers() -> None:
    with pytest.raises(AttachError, match=r"create map rows .*key 3 bytes.*EINVAL") as caught:
        create_map(shape_of(MapKind.ARRAY, key_bytes=3))

    assert caught.value.reason is Reason.MAP_TYPE


@pytest.mark.parametrize("name", ["a name.with-odd/characters", "ünïcode", "x" * 200])
def test_any_name_is_made_fit_for_the_kernel(name: str, create: Callable[[MapShape], int]) -> None:
    shape = replace(shape_of(MapKind.HASH), name=name)

    assert read_map(create(shape), shape).keys == []


def test_a_full_descriptor_table_is_told_as_such() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        with pytest.raises(AttachError, match="LimitNOFILE") as caught:
            create_map(shape_of(MapKind.HASH))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert caught.value.reason is Reason.DESCRIPTORS


def test_map_descriptors_are_close_on_exec(create: Callable[[MapShape], int]) -> None:
    assert not os.get_inheritable(create(shape_of(MapKind.HASH)))
