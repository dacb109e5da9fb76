import os
import sys

import pytest

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.majorminor import decode_majorminor


@pytest.mark.parametrize(("major", "minor"), [(0, 0), (8, 1), (259, 65536), (0, 1048575), (4095, 1048575)])
def test_a_device_has_the_same_text_in_the_kernels_and_in_libcs_form(major: int, minor: int) -> None:
    kernels = (major << 20 | minor).to_bytes(4, sys.byteorder)
    libcs = os.makedev(major, minor).to_bytes(8, sys.byteorder)

    assert decode_majorminor(kernels) == decode_majorminor(libcs) == f"{major}:{minor}"


def test_no_bytes_are_too_many_bits_for_a_device() -> None:
    assert decode_majorminor(b"\xff" * 4) == "4095:1048575"
    assert decode_majorminor(b"\xff" * 8) == "4294967295:4294967295"


@pytest.mark.parametrize("size", [0, 1, 2, 5, 16])
def test_other_sizes_are_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match=r"majorminor: .*expected 4 or 8 bytes"):
        decode_majorminor(bytes(size))
