import sys

import pytest

from ebpf_userspace_exporter.worker.decoders.cgroup import Cgroup
from ebpf_userspace_exporter.worker.decoders.errors import DecodeError

DECODE = Cgroup({1: "/", 4711: "/system.slice/nginx.service"}.get)


@pytest.mark.parametrize(
    ("cgroup_id", "text"),
    [
        (1, "/"),
        (4711, "/system.slice/nginx.service"),
        ((1 << 32) + 4711, f"unknown:{(1 << 32) + 4711}"),
        ((1 << 64) - 1, f"unknown:{(1 << 64) - 1}"),
    ],
)
def test_a_cgroup_has_its_path(cgroup_id: int, text: str) -> None:
    assert DECODE(cgroup_id.to_bytes(8, sys.byteorder)) == text


@pytest.mark.parametrize("size", [0, 4, 7, 16])
def test_other_sizes_are_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match=r"cgroup: .*expected 8 bytes"):
        DECODE(bytes(size))
