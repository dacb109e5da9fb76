"""A device's number, as `lsblk` and /proc/PID/mountinfo show it."""

import os

from ebpf_userspace_exporter.worker.decoders.number import as_number

_KERNEL_MINOR_BITS = 20


def decode_majorminor(raw: bytes) -> str:
    """Return a dev_t as `major:minor`: 4 bytes are the kernel's, 8 bytes libc's; DecodeError for other sizes."""
    number = as_number("majorminor", raw, 4, 8, signed=False)
    if len(raw) == 4:
        return f"{number >> _KERNEL_MINOR_BITS}:{number & ((1 << _KERNEL_MINOR_BITS) - 1)}"
    return f"{os.major(number)}:{os.minor(number)}"
