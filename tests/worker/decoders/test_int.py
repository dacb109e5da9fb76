import sys

import pytest

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.int import decode_int


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_every_size_is_read_in_host_order_and_with_its_sign(size: int) -> None:
    lowest, highest = -(1 << 8 * size - 1), (1 << 8 * size - 1) - 1

    for number in (lowest, -2, -1, 0, 1, highest):
        assert decode_int(number.to_bytes(size, sys.byteorder, signed=True)) == str(number)


@pytest.mark.parametrize("size", [0, 3, 5, 7, 9, 16])
def test_other_sizes_are_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match=r"int: .*expected 1, 2, 4 or 8 bytes"):
        decode_int(bytes(size))
