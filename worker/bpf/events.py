"""Events that programs put into buffers, for the worker to take out: perf buffers and ring buffers behind one face."""

import contextlib
import errno
import mmap
from collections.abc import Sequence
from typing import Protocol

from ebpf_userspace_exporter.worker.bpf.errors import attach_error
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, possible_cpu_numbers
from ebpf_userspace_exporter.worker.bpf.perf_buffer import PerfBuffer
from ebpf_userspace_exporter.worker.bpf.ring_buffer import RingBuffer
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

# Of a perf buffer, for each CPU: 2 000 events of 16 bytes. A ring buffer has the size that the code gives it.
PERF_BUFFER_BYTES = max(64 << 10, mmap.PAGESIZE)


class EventBuffer(Protocol):
    """The reader's side of a buffer; `descriptor` becomes readable when there is enough in it to be worth a look."""

    descriptor: int

    def take(self) -> list[bytes] | None:
        """Return the oldest events, at most some hundreds, and free their space; None if there are none."""

    def close(self) -> None:
        """Let go of the buffer."""


def open_event_buffers(map_fd: int, shape: MapShape) -> Sequence[EventBuffer]:
    """Return the buffers of an event table: one for each CPU, or one for all; AttachError where there can be none.

    What a ring buffer holds from before is still in it. A perf buffer is new and takes the place of any other
    reader's; a CPU that is not online has none, and its events, should it come, are lost.
    """
    try:
        if shape.kind == MapKind.RINGBUF:
            return [RingBuffer(map_fd, shape.max_entries)]
        return _open_perf_buffers(map_fd)
    except OSError as error:
        doing = f"open the event buffers of {shape.name}"
        if error.errno == errno.EPERM:
            # What is mapped here counts as locked memory beyond kernel.perf_event_mlock_kb for each CPU and user.
            message = f"{doing}: too little locked memory is allowed: give CAP_IPC_LOCK or raise LimitMEMLOCK"
            raise AttachError(Reason.PERMISSION, message) from error
        raise attach_error(error, doing, otherwise=Reason.ATTACH) from error


def _open_perf_buffers(map_fd: int) -> list[PerfBuffer]:
    with contextlib.ExitStack() as undo:
        buffers = []
        for cpu in possible_cpu_numbers():
            try:
                buffers.append(PerfBuffer(map_fd, cpu, PERF_BUFFER_BYTES))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                continue
            undo.callback(buffers[-1].close)
        undo.pop_all()
    return buffers
