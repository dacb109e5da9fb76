"""An error's number, as in errno or as system calls return it."""

import errno

from ebpf_userspace_exporter.worker.decoders.number import as_number

# Of two names for a number, Python has the one that is younger; the kernel and libc have these.
_NAMES = {**errno.errorcode, errno.EAGAIN: "EAGAIN", errno.EDEADLK: "EDEADLK", errno.EOPNOTSUPP: "EOPNOTSUPP"}


def decode_errno(raw: bytes) -> str:
    """Return 4 or 8 bytes, an error's number or its negative, as its name: `ENOENT`; DecodeError for other sizes.

    What is no error's number stays a number: 0, and what a call returns that went well.
    """
    number = as_number("errno", raw, 4, 8)
    return _NAMES.get(abs(number), str(number))
