"""Maps are made as described, and none that could not be read or told of."""

import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.bpf import maps
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map, possible_cpu_numbers
from ebpf_userspace_exporter.worker.bpf.reading import read_map
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from tests.worker.map_contents import shape_of

pytestmark = pytest.mark.bpf


def test_possible_cpus_are_those_of_the_kernels_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "possible").write_text("0-2,5,8-9\n")
    monkeypatch.setattr(maps, "_POSSIBLE_CPUS", tmp_path / "possible")

    assert possible_cpu_numbers.__wrapped__() == (0, 1, 2, 5, 8, 9)


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
