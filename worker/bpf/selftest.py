"""Which way of attaching works here, found out by doing it: versions do not tell, as fixes are carried back.

A forked child's second thread calls a probed function, as does this process. Right is: every call of the child's is
counted, whichever thread made it, and none of ours. UPROBE_MULTI takes the pid for a thread's before kernel 6.10.
"""

import contextlib
import ctypes
import errno
import os
import select
import signal
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map
from ebpf_userspace_exporter.worker.bpf.programs import load_program
from ebpf_userspace_exporter.worker.bpf.reading import read_map
from ebpf_userspace_exporter.worker.bpf.values import numbers_by_key
from ebpf_userspace_exporter.worker.image import Function, MapShape, Probe
from ebpf_userspace_exporter.worker.kernel import set_parent_death_signal
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_DEADLINE_SECONDS = 3.0
_CALLS = 5
_COUNTS = MapShape("selftest", MapKind.ARRAY, key_bytes=4, leaf_bytes=8, max_entries=1, flags=0, built_fd=0)


def _instruction(code: int, registers: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, registers, offset, immediate)


# Adds one to the only element of the array; registers are source << 4 | destination.
_COUNT = Function(
    "selftest",
    _instruction(0x62, 10, -4)  # *(u32 *)(r10 - 4) = 0, the key
    + _instruction(0x18, 1 << 4 | 1, 0, _COUNTS.built_fd)  # r1 = the map
    + _instruction(0)
    + _instruction(0xBF, 10 << 4 | 2)  # r2 = r10
    + _instruction(0x07, 2, 0, -4)  # r2 -= 4
    + _instruction(0x85, 0, 0, 1)  # r0 = bpf_map_lookup_elem(r1, r2)
    + _instruction(0x15, 0, 2)  # if r0 == 0, skip the next two
    + _instruction(0xB7, 1, 0, 1)  # r1 = 1
    + _instruction(0xDB, 1 << 4)  # lock *(u64 *)r0 += r1
    + _instruction(0xB7)  # r0 = 0
    + _instruction(0x95),  # exit
)

_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Whether a way of attaching counts right, and if not, what was seen instead."""

    works: bool
    detail: str


def uprobe_multi_works() -> SelfTest:
    """Return whether UPROBE_MULTI links count right here; takes some 50 ms, at most seconds, and leaves nothing."""
    return _test(uprobe_multi=True)


def perf_uprobes_work() -> SelfTest:
    """Return whether perf events count right here; takes some 100 ms, at most seconds, and leaves nothing."""
    return _test(uprobe_multi=False)


def _test(*, uprobe_multi: bool) -> SelfTest:
    try:
        counted = _count_calls(uprobe_multi=uprobe_multi)
    except AttachError as error:
        # Before 6.6 UPROBE_MULTI is an unknown attach type, and that is the same EINVAL.
        unknown = uprobe_multi and error.reason is Reason.OTHER_TRACER
        return SelfTest(works=False, detail=f"{error.message}{', or the kernel is before 6.6' if unknown else ''}")
    except OSError as error:
        return SelfTest(works=False, detail=str(error))
    if counted != _CALLS:
        return SelfTest(works=False, detail=f"counted {counted} calls, expected the {_CALLS} of a second thread")
    return SelfTest(works=True, detail="")


def _count_calls(*, uprobe_multi: bool) -> int:
    path, offset = _find_getppid()
    with contextlib.ExitStack() as stack:
        counts = create_map(_COUNTS)
        stack.callback(os.close, counts)
        program = load_program(_COUNT, {_COUNTS.built_fd: counts}, uprobe_multi=uprobe_multi)
        stack.callback(os.close, program)
        child = stack.enter_context(_forked_caller())
        probe = Probe(_COUNT.name, 0, offset, ref_ctr_offset=0, is_return=False)
        for link in attach({_COUNT.name: program}, [probe], [path], child.pid, uprobe_multi=uprobe_multi):
            stack.callback(os.close, link)
        _call()
        child.call()
        [counted] = numbers_by_key(read_map(counts, _COUNTS)).values()
        return counted


def _call() -> None:
    for _ in range(_CALLS):
        _libc.getppid()


def _find_getppid() -> tuple[str, int]:
    """Return the file that getppid, mapped into us and our forks, comes from, and its offset there."""
    address = ctypes.cast(_libc.getppid, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, start, _, _, *path = line.split(maxsplit=5)
        low, high = (int(bound, 16) for bound in span.split("-"))
        if low <= address < high and path:
            return path[0], address - low + int(start, 16)
    raise OSError(errno.ENOENT, "getppid is in no mapped file")


@dataclass(frozen=True, slots=True)
class _Caller:
    """A forked child whose second thread calls the probed function when told to."""

    pid: int
    orders: int
    answers: int

    def call(self) -> None:
        """Have it call, and wait until it did."""
        os.write(self.orders, b".")
        self.wait()

    def wait(self) -> None:
        """Wait until it has answered, OSError if it does not: once when it is set up, then after each order."""
        waiting = select.poll()
        waiting.register(self.answers, select.POLLIN)
        if not waiting.poll(_DEADLINE_SECONDS * 1000) or not os.read(self.answers, 1):
            raise TimeoutError(errno.ETIMEDOUT, "the child that calls the probed function did not answer")


@contextlib.contextmanager
def _forked_caller() -> Iterator[_Caller]:
    orders, orders_in = os.pipe()
    answers, answers_in = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _run_child(parent, orders, answers_in)
    os.close(orders)
    os.close(answers_in)
    try:
        caller = _Caller(pid, orders_in, answers)
        caller.wait()
        yield caller
    finally:
        os.close(orders_in)
        os.close(answers)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _run_child(parent: int, orders: int, answers: int) -> NoReturn:
    """In the child: end with the parent, or when killed, whichever comes first."""
    try:
        set_parent_death_signal()
        # Asked before the probe is there: this is the probed function.
        if os.getppid() == parent:
            thread = threading.Thread(target=_obey, args=(orders, answers))
            thread.start()
            thread.join()
    finally:
        os._exit(0)


def _obey(orders: int, answers: int) -> None:
    os.write(answers, b".")
    while os.read(orders, 1):
        _call()
        os.write(answers, b".")
