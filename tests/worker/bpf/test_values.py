"""Values are what a C struct holds, wherever in it they are, also in maps that keep one for each CPU."""

import struct
import subprocess
from collections.abc import Callable

import pytest

from ebpf_userspace_exporter.config.model import ValueType
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, Rows, possible_cpus
from ebpf_userspace_exporter.worker.bpf.reading import read_by_key, read_map
from ebpf_userspace_exporter.worker.bpf.values import NoValueError, ValueReader, numbers_by_key, value_type_at
from ebpf_userspace_exporter.worker.image import MapShape
from tests.worker.map_contents import per_cpu_leaves, per_cpu_rows, rows_of, rows_with_leaves

Update = Callable[[int, bytes, bytes], None]
CreateMap = Callable[[MapShape], int]

# Every type once, in an order that makes the compiler pad; a line per member and the bytes follow.
STRUCT = r"""
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
struct leaf {
    uint8_t u8; uint64_t u64; int8_t s8; uint16_t u16; int64_t s64; int16_t s16; uint32_t u32; char gap; int32_t s32;
};
#define TELL(member) fprintf(stderr, #member " %zu\n", offsetof(struct leaf, member));
int main(void) {
    struct leaf leaves[2] = {
        {250, 18446744073709551615u, -100, 65000, INT64_MIN, -30000, 4000000000u, 'x', -2000000000},
        {1, 2, 3, 4, 5, 6, 7, 'y', 8},
    };
    TELL(u8) TELL(u64) TELL(s8) TELL(u16) TELL(s64) TELL(s16) TELL(u32) TELL(s32)
    return fwrite(leaves, sizeof leaves, 1, stdout) != 1;
}
"""
NUMBERS = {
    ValueType.U8: [250, 1],
    ValueType.U64: [2**64 - 1, 2],
    ValueType.S8: [-100, 3],
    ValueType.U16: [65000, 4],
    ValueType.S64: [-(2**63), 5],
    ValueType.S16: [-30000, 6],
    ValueType.U32: [4000000000, 7],
    ValueType.S32: [-2000000000, 8],
}


@pytest.fixture(scope="module")
def c_struct(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], dict[ValueType, int]]:
    """Return two leaves as the compiler lays them out, and where each type's member is."""
    folder = tmp_path_factory.mktemp("struct")
    (folder / "leaf.c").write_text(STRUCT)
    subprocess.run(["gcc", "-o", folder / "leaf", folder / "leaf.c"], check=True, timeout=120)
    told = subprocess.run([folder / "leaf"], capture_output=True, check=True, timeout=20)
    offsets = {ValueType(name): int(at) for name, at in map(str.split, told.stderr.decode().splitlines())}
    half = len(told.stdout) // 2
    return [told.stdout[:half], told.stdout[half:]], offsets


@pytest.mark.bpf
@pytest.mark.parametrize("read", [read_map, read_by_key], ids=["whole", "key by key"])
@pytest.mark.parametrize("kind", [MapKind.HASH, MapKind.ARRAY, MapKind.PERCPU_HASH, MapKind.PERCPU_ARRAY])
def test_every_type_is_read_at_its_place_in_a_c_struct(
    *,
    kind: MapKind,
    read: Callable[[int, MapShape], Rows],
    c_struct: tuple[list[bytes], dict[ValueType, int]],
    create: CreateMap,
    update_map: Update,
) -> None:
    leaves, offsets = c_struct
    shape = MapShape("rows", kind, 4, len(leaves[0]), 2, flags=0, built_fd=0)
    map_fd = create(shape)
    for number, leaf in enumerate(leaves):
        whole = leaf
        if kind in {MapKind.PERCPU_HASH, MapKind.PERCPU_ARRAY}:
            whole = leaf.ljust((len(leaf) + 7) // 8 * 8, b"\0").ljust((len(leaf) + 7) // 8 * 8 * possible_cpus(), b"\0")
        update_map(map_fd, struct.pack("=I", number), whole)

    rows = read(map_fd, shape)

    order = [struct.unpack("=I", key)[0] for key in rows.keys]
    found = {
        value_type: dict(zip(order, ValueReader(shape, offset, value_type).totals(rows), strict=True))
        for value_type, offset in offsets.items()
    }
    assert found == {value_type: dict(enumerate(numbers)) for value_type, numbers in NUMBERS.items()}
    assert len(set(offsets.values())) == len(ValueType)


@pytest.mark.bpf
@pytest.mark.parametrize("kind", [MapKind.PERCPU_HASH, MapKind.PERCPU_ARRAY, MapKind.LRU_PERCPU_HASH])
def test_each_cpus_share_is_the_one_that_was_stored_for_it(
    kind: MapKind, create: CreateMap, update_map: Update
) -> None:
    shape = MapShape("rows", kind, 4, 12, 2, flags=0, built_fd=0)
    map_fd = create(shape)
    shares = {number: [1000 * number + cpu + 1 for cpu in range(possible_cpus())] for number in range(2)}
    for number, numbers in shares.items():
        update_map(map_fd, struct.pack("=I", number), per_cpu_leaves(shape, [each << 32 for each in numbers]))

    rows = read_map(map_fd, shape)

    reader = ValueReader(shape, 4, ValueType.U32)
    keys = [struct.unpack("=I", key)[0] for key in rows.keys]
    assert {key: list(found) for key, found in zip(keys, reader.shares(rows), strict=True)} == shares
    assert dict(zip(keys, reader.totals(rows), strict=True)) == {key: sum(shares[key]) for key in shares}


@pytest.mark.parametrize(
    ("leaf_bytes", "offset", "number"),
    [
        (8, 0, 0x0807060504030201),
        (16, 8, 0x100F0E0D0C0B0A09),
        (20, 4, 0x0C0B0A0908070605),
        (12, 8, 0x0C0B0A09),
        (4, 0, 0x04030201),
        (2, 0, 0x0201),
        (4, 3, 0x04),
    ],
)
def test_without_a_type_the_value_is_what_follows_up_to_eight_bytes(leaf_bytes: int, offset: int, number: int) -> None:
    rows = rows_with_leaves({b"key": bytes(range(1, leaf_bytes + 1))}, leaf_bytes=leaf_bytes)

    assert list(ValueReader(rows.shape, offset).totals(rows)) == [number]


@pytest.mark.skipif(possible_cpus() < 2, reason="one CPU has nothing to sum")
@pytest.mark.parametrize(
    ("value_type", "shares", "total"),
    [
        pytest.param(None, [5, -3], 2, id="the width of the leaf, without a type"),
        pytest.param(None, [2**32 - 1, 2], 1, id="which may be too small"),
        pytest.param(ValueType.U32, [2**32 - 1, 2], 2**32 + 1, id="u32 is exact"),
        pytest.param(ValueType.S32, [5, -8], -3, id="s32"),
        pytest.param(ValueType.S32, [-(2**31), -1], -(2**31) - 1, id="s32 is exact"),
        pytest.param(ValueType.U16, [2**16 - 1, 2], 2**16 + 1, id="u16 is exact"),
        pytest.param(ValueType.S8, [-128, -128], -256, id="s8 is exact"),
    ],
)
def test_a_sum_over_cpus_wraps_only_where_the_type_is_not_told(
    value_type: ValueType | None, shares: list[int], total: int
) -> None:
    rows = per_cpu_rows({b"key": shares}, leaf_bytes=4)

    assert list(ValueReader(rows.shape, 0, value_type).totals(rows)) == [total]


@pytest.mark.skipif(possible_cpus() < 2, reason="one CPU has nothing to sum")
@pytest.mark.parametrize(
    ("value_type", "shares", "total"),
    [
        pytest.param(None, [5, 2**64 - 3], 2, id="subtracted on another CPU"),
        pytest.param(ValueType.U64, [5, 2**64 - 3], 2, id="u64"),
        pytest.param(ValueType.S64, [5, -8], -3, id="s64"),
        pytest.param(ValueType.S64, [2**63 - 1, 1], -(2**63), id="s64 that is too large"),
    ],
)
def test_a_sum_of_64_bits_wraps(value_type: ValueType | None, shares: list[int], total: int) -> None:
    """A program that subtracts on another CPU than it added on leaves a huge number there."""
    rows = per_cpu_rows({b"key": shares})

    assert list(ValueReader(rows.shape, 0, value_type).totals(rows)) == [total]


@pytest.mark.parametrize(
    ("leaf_bytes", "offset", "value_type", "saying"),
    [
        (3, 0, None, "have 3 bytes, expected 1, 2, 4 or 8"),
        (16, 10, None, "have 6 bytes from byte 10 on, expected 1, 2, 4 or 8"),
        (8, 8, None, "have 0 bytes from byte 8 on"),
        (8, 20, None, "have 0 bytes from byte 20 on"),
        (8, 5, ValueType.U32, "have 8 bytes, a u32 at byte 5 ends at 9"),
        (4, 0, ValueType.S64, "have 4 bytes, a s64 at byte 0 ends at 8"),
    ],
)
def test_a_value_that_is_not_in_the_leaf_is_refused(
    leaf_bytes: int, offset: int, value_type: ValueType | None, saying: str
) -> None:
    with pytest.raises(NoValueError, match=saying):
        value_type_at(leaf_bytes, offset, value_type)


def test_rows_are_numbers_by_key() -> None:
    assert numbers_by_key(rows_of({b"a": 1, b"b": 2**64 - 1})) == {b"a": 1, b"b": 2**64 - 1}
