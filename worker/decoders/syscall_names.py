"""The names of system calls, as libseccomp has them."""

import ctypes
from collections.abc import Callable

_LIBRARY = "libseccomp.so.2"


def native_syscall_names(library: str = _LIBRARY) -> Callable[[int], str | None]:
    """Return what gives the name of a call of this machine's architecture, None for a number that it does not know.

    It knows none where there is no libseccomp. A 32-bit process on a 64-bit kernel has other numbers.
    """
    try:
        seccomp = ctypes.CDLL(library)
    except OSError:
        return lambda _: None
    native = ctypes.CFUNCTYPE(ctypes.c_uint32)(("seccomp_arch_native", seccomp))
    resolve = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int)(
        ("seccomp_syscall_resolve_num_arch", seccomp)
    )
    free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(("free", ctypes.CDLL(None)))
    architecture = native()

    def name_of(number: int) -> str | None:
        # libseccomp's negative numbers are its own, for calls that this architecture does not have.
        if not 0 <= number < 1 << 31:
            return None
        name = resolve(architecture, number)
        if not name:
            return None
        try:
            return ctypes.string_at(name).decode()
        finally:
            free(name)

    return name_of
