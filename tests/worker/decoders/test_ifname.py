import sys

import pytest

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.ifname import Ifname

DECODE = Ifname({1: "lo", 4: "eth0"}.get)


@pytest.mark.parametrize(
    ("index", "text"), [(1, "lo"), (4, "eth0"), (7, "unknown:7"), (0, "unknown:0"), (-1, "unknown:-1")]
)
def test_an_interface_has_its_name(index: int, text: str) -> None:
    assert DECODE(index.to_bytes(4, sys.byteorder, signed=True)) == text


@pytest.mark.parametrize("size", [0, 1, 2, 8])
def test_other_sizes_are_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match=r"ifname: .*expected 4 bytes"):
        DECODE(bytes(size))
