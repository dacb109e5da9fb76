"""The reader's side of a BPF_MAP_TYPE_RINGBUF map (Documentation/bpf/ringbuf.rst, kernel/bpf/ringbuf.c).

One page has the reader's position, which we write; the next the writers'; then the records, mapped twice in a row so
that none is ever in two parts. Both positions only grow. A record is reserved with its length and a busy bit, which is
taken away when it is complete: what lies behind an incomplete one has to wait. The reader's position is in the map and
not in this process, so a successor goes on where a dead reader was.
"""

import mmap
import struct

from ebpf_userspace_exporter.worker.bpf.memory_order import keep_order

_BUSY, _DISCARDED = 1 << 31, 1 << 30
_LENGTH_MASK = _DISCARDED - 1
_HEADER = struct.Struct("I4x")  # length and bits; the page that the record begins in. Native: loaded as 4 bytes at once
_MOST_RECORDS = 256  # in one go: some milliseconds


class RingBuffer:
    """Takes events out of a ring buffer of `data_bytes`, the map's max_entries; OSError if it cannot be mapped.

    The map's descriptor stays the caller's.
    """

    def __init__(self, map_fd: int, data_bytes: int) -> None:
        page = mmap.PAGESIZE
        self.descriptor = map_fd
        self._mask = data_bytes - 1
        reader = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        writers = mmap.mmap(map_fd, page + 2 * data_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # Items of a view are loaded and stored as 8 bytes at once; struct would store byte by byte.
        self._consumed = memoryview(reader)[:8].cast("Q")
        self._produced = memoryview(writers)[:8].cast("Q")
        self._records = memoryview(writers)[page:]

    def take(self) -> list[bytes] | None:
        """Return the oldest complete events, possibly none of those that were looked at; None if there is nothing."""
        start, produced = self._consumed[0], self._produced[0]
        if start == produced:
            return None
        keep_order()
        position, spans = start, []
        for _ in range(_MOST_RECORDS):
            if position == produced:
                break
            offset = position & self._mask
            (header,) = _HEADER.unpack_from(self._records, offset)
            if header & _BUSY:
                break
            length = header & _LENGTH_MASK
            content = offset + _HEADER.size
            if not header & _DISCARDED:
                spans.append((content, content + length))
            position += _HEADER.size + (length + 7) // 8 * 8
        if position == start:
            return None
        keep_order()
        events = [bytes(self._records[begin:end]) for begin, end in spans]
        keep_order()
        self._consumed[0] = position
        return events

    def close(self) -> None:
        """Unmap it; what was not taken stays for the next reader."""
        for view in (self._consumed, self._produced, self._records):
            view.release()
