"""An IP address as the kernel's socket structures hold it."""

from ipaddress import IPv4Address, IPv6Address

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError


def decode_inet_ip(raw: bytes) -> str:
    """Return 4 or 16 bytes in network order as an address; DecodeError for other sizes.

    An IPv4 address mapped into IPv6 is shown as the IPv4 address that it is.
    """
    if len(raw) == 4:
        return str(IPv4Address(raw))
    if len(raw) == 16:
        address = IPv6Address(raw)
        return str(address.ipv4_mapped or address)
    raise DecodeError("inet_ip", raw, "4 or 16 bytes")
