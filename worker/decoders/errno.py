"""An error's number, as in errno or as system calls return it."""

import errno

from ebpf_userspace_exporter.worker.decoders.number import as_number

_EHWPOISON = 133  # Python 3.11 does not have it
# Of two names for a number, Python may have the other one than the kernel and libc, which have these.
_NAMES = {
    **errno.errorcode,
    errno.EAGAIN: "EAGAIN",
    errno.EDEADLK: "EDEADLK",
    errno.EOPNOTSUPP: "EOPNOTSUPP",
    _EHWPOISON: "EHWPOISON",
}


def decode_errno(raw: bytes) -> str:
    """Return 4 or 8 bytes, an error's number or its negative, as its name: `ENOENT`; DecodeError for other sizes.

    What is no error's number stays a number: 0, and what a call returns that went well.
    """
    number = as_number("errno", raw, 4, 8)
    return _NAMES.get(abs(number), str(number))
