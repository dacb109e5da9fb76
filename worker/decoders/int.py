"""A signed integer as the probed program had it in memory."""

from ebpf_userspace_exporter.worker.decoders.number import as_number


def decode_int(raw: bytes) -> str:
    """Return 1, 2, 4 or 8 bytes in the host's byte order as a decimal number; DecodeError for other sizes."""
    return str(as_number("int", raw, 1, 2, 4, 8))
