import sys

import pytest

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.syscall import Syscall

DECODE = Syscall({0: "read", 257: "openat"}.get)


def raw(number: int, size: int = 4) -> bytes:
    return number.to_bytes(size, sys.byteorder, signed=True)


@pytest.mark.parametrize("size", [4, 8])
def test_a_call_has_its_name(size: int) -> None:
    assert DECODE(raw(0, size)) == "read"
    assert DECODE(raw(257, size)) == "openat"


@pytest.mark.parametrize("number", [-1, 999, (1 << 31) - 1])
def test_an_unknown_number_says_that_it_is_unknown(number: int) -> None:
    assert DECODE(raw(number)) == DECODE(raw(number, 8)) == f"unknown:{number}"


@pytest.mark.parametrize("size", [0, 1, 2, 16])
def test_other_sizes_are_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match=r"syscall: .*expected 4 or 8 bytes"):
        DECODE(bytes(size))
