"""Raw calls into the kernel that Python has no function for: prctl, capabilities, system calls by number."""

import contextlib
import ctypes
import errno
import os
import signal
from collections.abc import Iterator
from enum import IntEnum

_CLONE_FILES = 0x400
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE_PARENT = 0x8000
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITY_WORDS = 2  # 32 capabilities each, by linux/capability.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_python = ctypes.PyDLL(None, use_errno=True)  # the same, but no call lets go of the interpreter's lock
_python.syscall.restype = ctypes.c_long


class Capability(IntEnum):
    """Capabilities that decide what can be probed and seen; numbers of linux/capability.h."""

    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    SYS_RESOURCE = 24
    PERFMON = 38
    BPF = 39


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int32))


class _CapabilityWord(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def system_call(number: int, *arguments: int) -> int:
    """Return what the system call `number` returns; OSError where it fails.

    Pointers are passed as addresses: the caller keeps the buffers alive. An interrupted call is made again, with
    Python's signal handlers run in between, as PEP 475 has it.
    """
    while True:
        result: int = _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
        if result >= 0:
            return result
        error = _last_error()
        if not isinstance(error, InterruptedError):
            raise error


def fork_sibling() -> int:
    """Fork a child of this process's parent; return 0 in the child and its pid here; OSError.

    For a process with one thread: neither Python nor the C library learns of the fork, and what they do in a child is
    to make up for other threads. It is a lot to write on: half a megabyte, once threading was imported.

    It is not clone3(2): systemd's RestrictNamespaces= and the seccomp filters of containers refuse that, as they cannot
    see its flags.
    """
    number = _SYS_CLONE.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of clone(2) is not known for {os.uname().machine}")
    # Flags, and 0 for each of stack, both thread ids and thread-local storage, whose order is the architecture's.
    pid: int = _python.syscall(*map(ctypes.c_long, (number, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)))
    if pid < 0:
        raise _last_error()
    return pid


def set_parent_death_signal(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send `number` to this process when the thread that forked it ends.

    Any change of credentials clears it, so it comes after the last one. A parent that died before the call sends
    nothing: the caller compares getppid() afterwards.
    """
    _prctl(_PR_SET_PDEATHSIG, number)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let what is begun here with links be ended before SIGTERM, or the parent's death, ends this process.

    A process that has a fatal signal while it makes or closes a link leaves the kernel's uprobe behind for good
    ("failed to unregister, leaking uprobe"), and with it a semaphore that no other tracer may differ from. SIGKILL
    cannot be held up: nobody sends it to a process that may be here before SIGTERM has had its time.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    set_parent_death_signal(signal.SIGTERM)
    try:
        yield
    finally:
        # Back to SIGKILL first: a parent that dies between the two is not missed.
        set_parent_death_signal(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))


def set_process_name(name: str) -> None:
    """Have ps and top call this process `name`, of which the kernel keeps 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode(), len(name.encode()) + 1)
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def unshare_descriptors() -> None:
    """Give the calling thread a descriptor table of its own, a copy of the one that it has shared so far."""
    if _libc.unshare(_CLONE_FILES) < 0:
        raise _last_error()


def set_no_new_privileges() -> None:
    """Make sure that no exec in this process or its children gains privileges by set-user-ID or file capabilities."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def clear_ambient_capabilities() -> None:
    """Make sure that no exec hands capabilities on; those of this process stay until then."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def effective_capabilities() -> frozenset[Capability]:
    """Return which of the capabilities that matter here this process has in effect."""
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    words = (_CapabilityWord * _CAPABILITY_WORDS)()
    if _libc.capget(ctypes.byref(header), words) < 0:
        raise _last_error()
    mask = words[0].effective | words[1].effective << 32
    return frozenset(capability for capability in Capability if mask >> capability & 1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) < 0:
        raise _last_error()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
