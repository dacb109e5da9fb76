"""An unsigned integer as the probed program had it in memory."""

import sys

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError


def decode_uint(raw: bytes) -> str:
    """Return 1, 2, 4 or 8 bytes in the host's byte order as a decimal number; DecodeError for other sizes."""
    if len(raw) not in (1, 2, 4, 8):
        raise DecodeError("uint", raw, "1, 2, 4 or 8 bytes")
    return str(int.from_bytes(raw, sys.byteorder))
