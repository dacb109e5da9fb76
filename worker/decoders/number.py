"""Numbers as the probed program had them in memory."""

import sys

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError


def as_number(decoder: str, raw: bytes, *sizes: int, signed: bool = True) -> int:
    """Return the bytes as an integer in the host's byte order; DecodeError if their number is not among `sizes`."""
    if len(raw) not in sizes:
        *others, last = map(str, sizes)
        raise DecodeError(decoder, raw, f"{', '.join(others)} or {last} bytes" if others else f"{last} bytes")
    return int.from_bytes(raw, sys.byteorder, signed=signed)
