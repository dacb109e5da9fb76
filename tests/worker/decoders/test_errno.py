import errno
import sys

import pytest

from ebpf_userspace_exporter.worker.decoders.errno import decode_errno
from ebpf_userspace_exporter.worker.decoders.errors import DecodeError


def raw(number: int, size: int = 4) -> bytes:
    return number.to_bytes(size, sys.byteorder, signed=True)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("sign", [1, -1], ids=["as in errno", "as a system call returns it"])
def test_an_error_has_its_name_in_either_sign(sign: int, size: int) -> None:
    assert decode_errno(raw(sign * errno.ENOENT, size)) == "ENOENT"
    assert decode_errno(raw(sign * errno.EPERM, size)) == "EPERM"


@pytest.mark.parametrize(
    ("number", "name"),
    [(errno.EWOULDBLOCK, "EAGAIN"), (errno.EDEADLOCK, "EDEADLK"), (errno.ENOTSUP, "EOPNOTSUPP")],
)
def test_of_two_names_it_has_the_one_of_the_manuals(number: int, name: str) -> None:
    assert decode_errno(raw(number)) == name


@pytest.mark.parametrize("number", [0, 4096, -4096, 524, -(1 << 31), (1 << 31) - 1])
def test_what_is_no_error_stays_a_number(number: int) -> None:
    assert decode_errno(raw(number)) == decode_errno(raw(number, 8)) == str(number)


def test_eight_bytes_that_look_like_an_error_in_their_lower_half_are_none() -> None:
    assert decode_errno(raw((1 << 32) + errno.ENOENT, 8)) == str((1 << 32) + 2)


@pytest.mark.parametrize("size", [0, 1, 2, 5, 16])
def test_other_sizes_are_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match=r"errno: .*expected 4 or 8 bytes"):
        decode_errno(bytes(size))
