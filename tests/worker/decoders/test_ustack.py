import errno
import struct

import pytest

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.decoders.ustack import Ustack

NAMES = {
    0x1000: "leaf+0x0",
    0x2004: "caller+0x4",
    0x3008: "main+0x8",
    0x4000: "operator+(int; char)+0x1",
    0x5000: "libfoo.so+0x5000",
    0x6000: "[anon]",
    0x7000: "a+0x1::b+0x2",
}
STACKS = {
    0: (0x1000, 0x2005, 0x3009),
    1: (0x4000,),
    2: (0x1000, 0x5001, 0x6001, 0x7001),
    3: (),
    4: tuple([0x1000] + [0x2005] * 300),
    5: (0x9999,),
}


class Symbols:
    """Knows these names; for another address the process was gone."""

    def name(self, address: int) -> str:
        return NAMES[address]


def read_stack(table: str, stack_id: int) -> tuple[int, ...]:
    assert table == "stacks"
    return STACKS[stack_id]


USTACK = Ustack(Surroundings(pid=1, symbols=Symbols(), read_stack=read_stack), "stacks")


@pytest.mark.parametrize("layout", ["=i", "=I", "=q", "=Q"])
def test_a_stack_begins_with_its_root_and_has_no_offsets(layout: str) -> None:
    """The second and the third address are behind the calls, and looked up in them."""
    assert USTACK(struct.pack(layout, 0)) == "main;caller;leaf"


@pytest.mark.parametrize(
    ("stack_id", "text"),
    [
        pytest.param(1, "operator+(int: char)", id="a separator in a name"),
        pytest.param(2, "a+0x1::b;[anon];libfoo.so;leaf", id="frames without a function"),
        pytest.param(3, "[unknown]", id="no frames"),
        pytest.param(4, ";".join(["caller"] * 126 + ["leaf"]), id="more frames than the kernel has"),
    ],
)
def test_frames_are_names(stack_id: int, text: str) -> None:
    assert USTACK(struct.pack("=i", stack_id)) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (struct.pack("=i", -errno.EFAULT), "[lost: EFAULT]"),
        (struct.pack("=q", -errno.EEXIST), "[lost: EEXIST]"),
        (struct.pack("=Q", (1 << 32) - errno.EEXIST), "[lost: EEXIST]"),
        (struct.pack("=i", -4000), "[lost: 4000]"),
        (struct.pack("=i", 77), "[lost: ENOENT]"),
    ],
    ids=["no stack", "a collision", "a wider unsigned field", "no error that we know", "an id that is gone"],
)
def test_a_stack_that_was_not_taken_says_why(raw: bytes, text: str) -> None:
    assert Ustack(Surroundings(1, Symbols(), missing), "stacks")(raw) == text


def missing(table: str, stack_id: int) -> tuple[int, ...]:
    raise KeyError(stack_id)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 16])
def test_other_sizes_are_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match="expected 4 or 8 bytes"):
        USTACK(bytes(size))


def test_a_stack_of_a_process_that_nobody_has_seen_is_an_error() -> None:
    with pytest.raises(DecodeError, match="expected a stack of a process that is there"):
        USTACK(struct.pack("=i", 5))
