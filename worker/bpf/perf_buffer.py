"""The reader's side of one CPU's share of a BPF_PERF_OUTPUT table (perf_event_open(2), struct perf_event_mmap_page).

The buffer belongs to a perf event, and that to the slot of its CPU in the table. It ends with the process that has
mapped it; the event stays in the slot, without a buffer, until another takes its place or the table is closed.
Records that tell of lost events are left aside: who puts events out is told at once (since Linux 5.1), and counts them.
"""

import contextlib
import ctypes
import mmap
import os
import struct

from ebpf_userspace_exporter.worker.bpf.memory_order import keep_order
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapElement, PerfEvent, bpf, perf_event_open

_TYPE_SOFTWARE, _BPF_OUTPUT, _SAMPLE_RAW, _WATERMARK = 1, 10, 1 << 10, 1 << 14
_RECORD_SAMPLE = 9
_ANY_PROCESS = -1
_HEAD, _TAIL = 1024 // 8, 1032 // 8  # in the first page: what the kernel has written, what we have read
_HEADER = struct.Struct("=I2xH")  # type and size
_RAW_SIZE = struct.Struct("=I")
_MOST_RECORDS = 256  # in one go: some milliseconds


class PerfBuffer:
    """Takes events out of a new buffer for one CPU, put into the table's slot for it; OSError ENODEV if it is offline.

    The descriptor becomes readable when a quarter is full.
    """

    def __init__(self, map_fd: int, cpu: int, data_bytes: int) -> None:
        event = PerfEvent(
            type=_TYPE_SOFTWARE,
            size=ctypes.sizeof(PerfEvent),
            config=_BPF_OUTPUT,
            sample_period=1,
            sample_type=_SAMPLE_RAW,
            flags=_WATERMARK,
            wakeup_events=data_bytes // 4,
        )
        with contextlib.ExitStack() as undo:
            self.descriptor = perf_event_open(event, _ANY_PROCESS, cpu)
            undo.callback(os.close, self.descriptor)
            mapped = undo.enter_context(mmap.mmap(self.descriptor, mmap.PAGESIZE + data_bytes))
            key, value = ctypes.c_uint32(cpu), ctypes.c_uint32(self.descriptor)
            element = MapElement(map_fd=map_fd, key=ctypes.addressof(key), value=ctypes.addressof(value))
            bpf(Command.MAP_UPDATE_ELEM, element)
            undo.pop_all()
        # Items of a view are loaded and stored as 8 bytes at once; struct would store byte by byte.
        self._positions = memoryview(mapped)[: mmap.PAGESIZE].cast("Q")
        self._records = memoryview(mapped)[mmap.PAGESIZE :]

    def take(self) -> list[bytes] | None:
        """Return the oldest events, possibly none of the records that were looked at; None if there is nothing."""
        start, head = self._positions[_TAIL], self._positions[_HEAD]
        if start == head:
            return None
        keep_order()
        position, events = start, []
        for _ in range(_MOST_RECORDS):
            if position == head:
                break
            kind, size = _HEADER.unpack(self._read(position, _HEADER.size))
            if not _HEADER.size <= size <= head - position:
                position = head  # nothing that follows can be made sense of
                break
            if kind == _RECORD_SAMPLE:
                record = self._read(position, size)
                (raw_bytes,) = _RAW_SIZE.unpack_from(record, _HEADER.size)
                content = _HEADER.size + _RAW_SIZE.size
                events.append(record[content : content + raw_bytes])
            position += size
        keep_order()
        self._positions[_TAIL] = position
        return events

    def close(self) -> None:
        """Close and unmap it."""
        self._positions.release()
        self._records.release()
        os.close(self.descriptor)

    def _read(self, position: int, size: int) -> bytes:
        begin, end = position % len(self._records), len(self._records)
        return bytes(self._records[begin : begin + size]) + bytes(self._records[: max(0, begin + size - end)])
