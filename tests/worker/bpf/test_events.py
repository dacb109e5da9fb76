"""Events of a real target come out of both kinds of buffers: each once, in order, as long as there is place."""

import contextlib
import errno
import mmap
import os
import select
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ebpf_userspace_exporter.worker.bpf.events import PERF_BUFFER_BYTES, EventBuffer, open_event_buffers
from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map
from ebpf_userspace_exporter.worker.bpf.perf_buffer import PerfBuffer
from ebpf_userspace_exporter.worker.bpf.programs import load_program
from ebpf_userspace_exporter.worker.bpf.ring_buffer import RingBuffer
from ebpf_userspace_exporter.worker.image import Function, MapShape, Probe
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

if TYPE_CHECKING:
    from tests.worker.bpf.conftest import Target

pytestmark = pytest.mark.bpf

RING_BYTES = 4096
RING = MapShape("events", MapKind.RINGBUF, key_bytes=0, leaf_bytes=0, max_entries=RING_BYTES, flags=0, built_fd=7)
PERF = MapShape("events", MapKind.PERF_EVENT_ARRAY, key_bytes=4, leaf_bytes=4, max_entries=0, flags=0, built_fd=7)
BOTH = pytest.mark.parametrize("shape", [RING, PERF], ids=["ring buffer", "perf buffer"])
RING_RECORD_BYTES, PERF_RECORD_BYTES = 16, 24  # of an event of 8 bytes
FIRST_ARGUMENT = {"x86_64": 112, "aarch64": 0}[os.uname().machine]  # its place in struct pt_regs
NO_WAKEUP = 1

# r6 = the context; the event, at r10 - 8, is the probed function's argument
BEGIN = ((0xBF, 1 << 4 | 6, 0, 0), (0x79, 1 << 4 | 1, FIRST_ARGUMENT, 0), (0x7B, 1 << 4 | 10, -8, 0))
END = ((0xB7, 0, 0, 0), (0x95, 0, 0, 0))
MAP = 1 << 4
OUTPUT_TO_RING = (
    *BEGIN,
    (0x18, MAP | 1, 0, 7),
    (0, 0, 0, 0),
    (0xBF, 10 << 4 | 2, 0, 0),
    (0x07, 2, 0, -8),
    (0xB7, 3, 0, 8),
    (0xB7, 4, 0, 0),
    (0x85, 0, 0, 130),  # bpf_ringbuf_output(r1 = the map, r2 = the event, r3 = 8, r4 = 0)
    *END,
)
OUTPUT_TO_PERF = (
    *BEGIN,
    (0xBF, 6 << 4 | 1, 0, 0),
    (0x18, MAP | 2, 0, 7),
    (0, 0, 0, 0),
    (0xB4, 3, 0, -1),  # the buffer of this CPU
    (0xBF, 10 << 4 | 4, 0, 0),
    (0x07, 4, 0, -8),
    (0xB7, 5, 0, 8),
    (0x85, 0, 0, 25),  # bpf_perf_event_output(r1 = the context, r2 = the map, r3, r4 = the event, r5 = 8)
    *END,
)
SUBMIT_EVEN_DISCARD_ODD = (
    *BEGIN,
    (0x18, MAP | 1, 0, 7),
    (0, 0, 0, 0),
    (0xB7, 2, 0, 8),
    (0xB7, 3, 0, 0),
    (0x85, 0, 0, 131),  # r0 = bpf_ringbuf_reserve(r1 = the map, r2 = 8, r3 = 0)
    (0x15, 0, 9, 0),  # if there is no place, end
    (0x79, 10 << 4 | 3, -8, 0),
    (0x7B, 3 << 4, 0, 0),  # the event is what it was
    (0xBF, 1, 0, 0),
    (0xB7, 2, 0, NO_WAKEUP),
    (0x57, 3, 0, 1),
    (0x55, 3, 2, 0),  # if it is odd, go on at the second next
    (0x85, 0, 0, 132),  # bpf_ringbuf_submit(r1, r2 = flags)
    (0x05, 0, 1, 0),
    (0x85, 0, 0, 133),  # bpf_ringbuf_discard(r1, r2 = flags)
    *END,
)


@dataclass(frozen=True, slots=True)
class Source:
    """A target that puts out an event for each call: 0, 1, 2 and so on, 8 bytes each."""

    target: "Target"
    map_fd: int
    shape: MapShape

    def open(self) -> list[EventBuffer]:
        return list(open_event_buffers(self.map_fd, self.shape))


Start = Callable[..., Source]


@pytest.fixture
def start(target: "Target") -> Iterator[Start]:
    """Return what makes an event table and attaches a program to a target that puts events into it."""
    with contextlib.ExitStack() as stack:

        def start_source(shape: MapShape, code: tuple[tuple[int, int, int, int], ...] | None = None) -> Source:
            code = code or (OUTPUT_TO_RING if shape.kind == MapKind.RINGBUF else OUTPUT_TO_PERF)
            bytecode = b"".join(struct.pack("<BBhi", *fields) for fields in code)
            map_fd = create_map(shape)
            stack.callback(os.close, map_fd)
            program = load_program(Function("put_out", bytecode), {shape.built_fd: map_fd}, uprobe_multi=True)
            stack.callback(os.close, program)
            probe = Probe("put_out", 0, target.binary.offsets["probed"], 0, is_return=False)
            for link in attach({"put_out": program}, [probe], [target.binary.path], target.pid, uprobe_multi=True):
                stack.callback(os.close, link)
            os.sched_setaffinity(target.pid, {min(os.sched_getaffinity(0))})  # in one perf buffer all are in order
            return Source(target, map_fd, shape)

        yield start_source


def taken(buffers: list[EventBuffer]) -> list[int]:
    """Empty the buffers; return the events as the numbers that they begin with."""
    found: list[int] = []
    for buffer in buffers:
        while (events := buffer.take()) is not None:
            found += (int.from_bytes(event[:8], "little") for event in events)
    return found


def close(buffers: list[EventBuffer]) -> None:
    for buffer in buffers:
        buffer.close()


def waiting_for(buffers: list[EventBuffer]) -> select.epoll:
    waiting = select.epoll()
    for buffer in buffers:
        waiting.register(buffer.descriptor, select.EPOLLIN)
    return waiting


@BOTH
def test_each_event_comes_once_and_in_order(shape: MapShape, start: Start) -> None:
    source = start(shape)
    buffers = source.open()
    source.target.call(200)

    assert taken(buffers) == list(range(200))
    assert taken(buffers) == []
    close(buffers)


@BOTH
def test_records_go_on_at_the_start_when_the_end_is_reached(shape: MapShape, start: Start) -> None:
    """17 is no divisor of either buffer: the records lie everywhere, and those of a perf buffer across the end."""
    source = start(shape)
    buffers = source.open()
    for _ in range(2 * PERF_BUFFER_BYTES // (17 * RING_RECORD_BYTES)):
        source.target.call(17)
        assert taken(buffers) == list(range(17))
    close(buffers)


@BOTH
def test_what_there_is_no_place_for_is_refused_until_some_is_taken(shape: MapShape, start: Start) -> None:
    source = start(shape)
    buffers = source.open()
    is_ring = shape.kind == MapKind.RINGBUF
    room = RING_BYTES // RING_RECORD_BYTES if is_ring else PERF_BUFFER_BYTES // PERF_RECORD_BYTES
    source.target.call(2 * room)
    found = taken(buffers)

    # The last byte is never filled.
    assert found == list(range(len(found)))
    assert room - 1 <= len(found) <= room
    source.target.call(10)
    assert taken(buffers) == list(range(10))
    close(buffers)


@BOTH
def test_one_take_is_bounded(shape: MapShape, start: Start) -> None:
    source = start(shape if shape is PERF else MapShape("events", MapKind.RINGBUF, 0, 0, 1 << 16, 0, 7))
    buffers = source.open()
    source.target.call(1000)
    pieces = [len(events) for buffer in buffers for events in iter(buffer.take, None)]

    assert sum(pieces) == 1000
    assert max(pieces) <= 256
    close(buffers)


def test_unread_events_of_a_ring_buffer_are_for_the_next_reader(start: Start) -> None:
    source = start(MapShape("events", MapKind.RINGBUF, 0, 0, 1 << 16, 0, 7))
    [first] = source.open()
    source.target.call(300)
    events = first.take()
    assert events is not None
    first.close()
    second = source.open()

    assert len(events) + len(taken(second)) == 300
    assert taken(second) == []
    close(second)


def test_a_perf_buffer_begins_empty_and_takes_its_predecessors_place(start: Start) -> None:
    source = start(PERF)
    first = source.open()
    source.target.call(5)
    close(first)
    source.target.call(7)
    second = source.open()
    source.target.call(9)

    assert taken(second) == list(range(9))
    close(second)


def test_discarded_records_are_left_out(start: Start) -> None:
    source = start(RING, SUBMIT_EVEN_DISCARD_ODD)
    buffers = source.open()
    source.target.call(100)

    assert taken(buffers) == list(range(0, 100, 2))
    close(buffers)


def test_a_perf_buffer_wakes_its_reader_at_a_quarter(start: Start) -> None:
    source = start(PERF)
    buffers = source.open()
    with waiting_for(buffers) as waiting:
        quarter = PERF_BUFFER_BYTES // 4 // PERF_RECORD_BYTES
        source.target.call(quarter - 1)
        assert not waiting.poll(0)
        source.target.call(3)
        assert waiting.poll(20)
    close(buffers)


def test_a_ring_buffer_is_readable_while_there_is_something_in_it(start: Start) -> None:
    source = start(RING)
    buffers = source.open()
    with waiting_for(buffers) as waiting:
        assert not waiting.poll(0)
        source.target.call(1)
        assert waiting.poll(20)
        taken(buffers)
        assert not waiting.poll(0)
    close(buffers)


def mapped_buffers() -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if "[perf_event]" in line or "bpf-map" in line]


@BOTH
def test_a_closed_buffer_leaves_no_descriptor_and_no_mapping(
    shape: MapShape, start: Start, open_descriptors: Callable[[], list[str]]
) -> None:
    source = start(shape)
    before, mapped = open_descriptors(), mapped_buffers()
    buffers = source.open()
    assert mapped_buffers() != mapped
    assert open_descriptors() != before
    close(buffers)

    assert open_descriptors() == before
    assert mapped_buffers() == mapped


def test_a_perf_buffer_too_many_leaves_none_of_the_others(open_descriptors: Callable[[], list[str]]) -> None:
    """A table with a slot less than there are CPUs, so that the last one fails."""
    cpus = len(os.sched_getaffinity(0))
    if cpus < 2:
        pytest.skip("needs two CPUs")
    map_fd = create_map(MapShape("events", MapKind.PERF_EVENT_ARRAY, 4, 4, cpus - 1, 0, 7))
    before, mapped = open_descriptors(), mapped_buffers()
    with pytest.raises(AttachError, match="open the event buffers of events: ") as caught:
        open_event_buffers(map_fd, PERF)
    assert caught.value.reason is Reason.ATTACH
    assert open_descriptors() == before
    assert mapped_buffers() == mapped
    os.close(map_fd)


def test_too_little_locked_memory_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("ebpf_userspace_exporter.worker.bpf.perf_buffer.mmap.mmap", refuse)
    map_fd = create_map(PERF)
    with pytest.raises(AttachError, match="CAP_IPC_LOCK") as caught:
        open_event_buffers(map_fd, PERF)
    assert caught.value.reason is Reason.PERMISSION
    os.close(map_fd)


def test_what_lies_behind_an_incomplete_record_has_to_wait() -> None:
    """A ring buffer made by hand, as no program can leave a record incomplete for long."""
    page, busy = mmap.PAGESIZE, 1 << 31
    memory = os.memfd_create("ring buffer")
    os.ftruncate(memory, 4 * page)

    def write_header(offset: int, header: int) -> None:
        os.pwrite(memory, struct.pack("=IIQ", header, 0, offset), 2 * page + offset)

    write_header(0, 8)
    write_header(16, 8 | busy)
    write_header(32, 8)
    os.pwrite(memory, struct.pack("=Q", 48), page)
    buffer = RingBuffer(memory, page)

    assert taken([buffer]) == [0]
    write_header(16, 8)
    assert taken([buffer]) == [16, 32]
    buffer.close()
    os.close(memory)


@pytest.mark.parametrize("size", [0, 7, 25, 65535])
def test_a_record_of_an_impossible_size_ends_the_reading_but_not_the_reader(size: int) -> None:
    """In memory of our own: the kernel's cannot be written to."""
    buffer = PerfBuffer.__new__(PerfBuffer)
    buffer._positions = memoryview(bytearray(mmap.PAGESIZE)).cast("Q")
    buffer._records = memoryview(struct.pack("=IHHQQ", 9, 0, size, 0, 0))
    buffer._positions[128] = 24

    assert buffer.take() == []
    assert buffer.take() is None
