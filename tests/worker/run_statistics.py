"""Has the kernel keep run times of BPF programs, for as long as a test lasts."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

from ebpf_userspace_exporter.worker.bpf.syscalls import bpf

_ENABLE_STATS = 32
_RUN_TIME = 0


class _EnableStats(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint32),)


@contextlib.contextmanager
def run_statistics() -> Iterator[None]:
    """As kernel.bpf_stats_enabled=1, but of a process that is killed nothing stays."""
    descriptor = bpf(_ENABLE_STATS, _EnableStats(_RUN_TIME))  # type: ignore[arg-type]  # the product enables nothing
    try:
        yield
    finally:
        os.close(descriptor)
