import socket

import pytest

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.inet_ip import decode_inet_ip


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "255.255.255.255", "10.1.2.3"])  # noqa: S104
def test_four_bytes_are_ipv4_in_network_order(address: str) -> None:
    assert decode_inet_ip(socket.inet_pton(socket.AF_INET, address)) == address


@pytest.mark.parametrize("address", ["::", "::1", "2001:db8::ff00:42:8329", "fe80::1"])
def test_sixteen_bytes_are_ipv6_in_its_shortest_form(address: str) -> None:
    assert decode_inet_ip(socket.inet_pton(socket.AF_INET6, address)) == address


def test_an_ipv4_address_mapped_into_ipv6_is_shown_as_ipv4() -> None:
    assert decode_inet_ip(socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.7")) == "192.0.2.7"


@pytest.mark.parametrize("size", [0, 3, 5, 8, 15, 17])
def test_other_sizes_are_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match=r"inet_ip: .*expected 4 or 16 bytes"):
        decode_inet_ip(bytes(size))
