"""What maps and programs are said to take up is what they do."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map, leaf_copies, leaf_stride
from ebpf_userspace_exporter.worker.bpf.usage import FunctionUsage, count_entries, function_usage, map_usage
from ebpf_userspace_exporter.worker.image import MapShape, Probe
from tests.worker.run_statistics import run_statistics

if TYPE_CHECKING:
    from tests.worker.bpf.conftest import Counter, Target

pytestmark = pytest.mark.bpf

Update = Callable[[int, bytes, bytes], None]
HASHES = (MapKind.HASH, MapKind.PERCPU_HASH, MapKind.LRU_HASH, MapKind.LRU_PERCPU_HASH)


def fill(map_fd: int, shape: MapShape, rows: int, update_map: Update) -> None:
    leaf = bytes(leaf_stride(shape) * leaf_copies(shape))
    for number in range(rows):
        update_map(map_fd, number.to_bytes(shape.key_bytes, "little"), leaf)


@pytest.mark.parametrize("kind", HASHES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("leaf_bytes", [8, 3000])
def test_every_key_of_a_hash_is_counted(kind: MapKind, leaf_bytes: int, update_map: Update) -> None:
    """Of few bytes in one batch, of many in several."""
    shape = MapShape("starts", kind, 4, leaf_bytes, max_entries=400, flags=0, built_fd=3)
    map_fd = create_map(shape)
    try:
        assert count_entries(map_fd, shape) == 0
        fill(map_fd, shape, 100, update_map)
        assert count_entries(map_fd, shape) == 100
    finally:
        os.close(map_fd)


def test_a_bucket_with_more_keys_than_a_batch_is_counted(update_map: Update) -> None:
    """With so large leaves a batch has room for one."""
    shape = MapShape("starts", MapKind.HASH, 4, 60_000, max_entries=64, flags=0, built_fd=3)
    map_fd = create_map(shape)
    try:
        fill(map_fd, shape, 64, update_map)
        assert count_entries(map_fd, shape) == 64
    finally:
        os.close(map_fd)


@pytest.mark.parametrize("flags", [0, 1], ids=["all memory from the start", "BPF_F_NO_PREALLOC"])
def test_what_is_known_of_a_map_changes_nothing_in_what_is_said_of_it(flags: int, update_map: Update) -> None:
    shape = MapShape("starts", MapKind.HASH, 4, 8, max_entries=400, flags=flags, built_fd=3)
    map_fd = create_map(shape)
    try:
        known = map_usage(map_fd, shape)
        fill(map_fd, shape, 100, update_map)

        assert map_usage(map_fd, shape, None, known) == map_usage(map_fd, shape)
        assert map_usage(map_fd, shape, 100, known).entries == 100
    finally:
        os.close(map_fd)


@pytest.mark.parametrize("kind", [MapKind.ARRAY, MapKind.PERCPU_ARRAY], ids=lambda kind: kind.name)
def test_an_array_has_no_number_of_entries(kind: MapKind) -> None:
    shape = MapShape("counts", kind, 4, 8, max_entries=100, flags=0, built_fd=3)
    map_fd = create_map(shape)
    try:
        usage = map_usage(map_fd, shape, entries=100)
    finally:
        os.close(map_fd)
    assert usage.entries is None
    assert usage.max_entries == 100
    assert usage.memory_bytes >= 100 * 8


def test_a_known_number_of_entries_is_not_counted_again() -> None:
    shape = MapShape("counts", MapKind.HASH, 4, 8, max_entries=10_000, flags=0, built_fd=3)
    map_fd = create_map(shape)
    try:
        usage = map_usage(map_fd, shape, entries=7)
    finally:
        os.close(map_fd)
    assert (usage.entries, usage.max_entries) == (7, 10_000)
    assert usage.memory_bytes > 10_000 * 12


def test_runs_are_those_of_the_target_while_the_kernel_counts_them(
    target: "Target", load_counter: Callable[[bool], "Counter"]
) -> None:
    counter = load_counter(True)
    probe = Probe("f0", 0, target.binary.offsets["probed"], 0, is_return=False)
    [link] = attach(counter.programs, [probe], [target.binary.path], target.pid, uprobe_multi=True)
    target.call(10)
    assert function_usage(counter.programs["f0"]) == FunctionUsage(0, 0.0)
    with run_statistics():
        target.call(300)
    target.call(10)
    usage = function_usage(counter.programs["f0"])
    os.close(link)

    assert usage.runs == 300
    assert 0 < usage.seconds < 1
    assert counter.counts()[0] == 320
