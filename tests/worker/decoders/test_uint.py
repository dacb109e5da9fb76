import sys

import pytest

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.uint import decode_uint


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_every_size_is_read_in_host_order_and_without_sign(size: int) -> None:
    number = (1 << 8 * size) - 2

    assert decode_uint(number.to_bytes(size, sys.byteorder)) == str(number)


@pytest.mark.parametrize("size", [0, 3, 5, 7, 9, 16])
def test_other_sizes_are_an_error_that_shows_the_bytes(size: int) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_uint(b"\xab" * size)

    assert (caught.value.decoder, caught.value.raw) == ("uint", b"\xab" * size)
    assert str(caught.value).endswith("expected 1, 2, 4 or 8 bytes")
    assert ("nothing" if size == 0 else "ab ab") in str(caught.value)
