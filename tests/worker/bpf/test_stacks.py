"""Stacks that a real program took are read as addresses of the target."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.bpf.maps import MapKind
from ebpf_userspace_exporter.worker.bpf.programs import load_program
from ebpf_userspace_exporter.worker.bpf.stacks import read_stack
from ebpf_userspace_exporter.worker.image import Function, MapShape, Probe

if TYPE_CHECKING:
    from tests.worker.bpf.conftest import Target

pytestmark = pytest.mark.bpf

ENTRIES, USER_STACK = 64, 256


def stacks_of(frames: int) -> MapShape:
    return MapShape("stacks", MapKind.STACK_TRACE, 4, 8 * frames, ENTRIES, flags=0, built_fd=5)


def taking_code() -> bytes:
    """Return instructions that take the user's stack."""
    return b"".join(
        struct.pack("<BBhi", *fields)
        for fields in (
            (0x18, 1 << 4 | 2, 0, 5),  # r2 = the map; r1 is the context
            (0, 0, 0, 0),
            (0xB7, 3, 0, USER_STACK),  # r3 = flags
            (0x85, 0, 0, 27),  # r0 = bpf_get_stackid(r1, r2, r3)
            (0xB7, 0, 0, 0),
            (0x95, 0, 0, 0),
        )
    )


def stacks_in(map_fd: int, leaf_bytes: int) -> list[tuple[int, ...]]:
    found = []
    for stack_id in range(ENTRIES):
        try:
            found.append(read_stack(map_fd, leaf_bytes, stack_id))
        except KeyError:
            continue
    return found


def place_in_memory(target: "Target", offset: int) -> int:
    for line in Path(f"/proc/{target.pid}/maps").read_text().splitlines():
        span, _, start, _, _, *path = line.split()
        low, high = (int(bound, 16) for bound in span.split("-"))
        if path == [target.binary.path] and 0 <= offset - int(start, 16) < high - low:
            return low + offset - int(start, 16)
    raise AssertionError(f"{offset:#x} is not mapped")


@pytest.mark.parametrize("frames", [127, 2, 1], ids=["all frames", "two frames", "one frame"])
def test_the_first_address_of_a_stack_is_where_the_probe_is(
    frames: int, target: "Target", create: Callable[[MapShape], int]
) -> None:
    shape = stacks_of(frames)
    map_fd = create(shape)
    program = load_program(Function("take", taking_code()), {shape.built_fd: map_fd}, uprobe_multi=False)
    offset = target.binary.offsets["probed"]
    links = attach(
        {"take": program}, [Probe("take", 0, offset, 0, False)], [target.binary.path], target.pid, uprobe_multi=False
    )
    try:
        target.call(3)
    finally:
        for descriptor in (*links, program):
            os.close(descriptor)

    [stack] = stacks_in(map_fd, shape.leaf_bytes)

    assert stack[0] == place_in_memory(target, offset)
    assert 1 <= len(stack) <= frames
    assert all(stack)


@pytest.mark.parametrize("stack_id", [0, ENTRIES - 1, ENTRIES, (1 << 32) - 1, 1 << 32, -14])
def test_a_stack_that_is_not_there_is_a_key_error(stack_id: int, create: Callable[[MapShape], int]) -> None:
    shape = stacks_of(127)

    with pytest.raises(KeyError):
        read_stack(create(shape), shape.leaf_bytes, stack_id)
