"""Every event is either taken or counted as lost, and only the buffers' own losses count."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.bpf.events import EventBuffer
from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.bpf.maps import create_map
from ebpf_userspace_exporter.worker.bpf.programs import load_program
from ebpf_userspace_exporter.worker.build.lost_events import counting_code
from ebpf_userspace_exporter.worker.image import Image
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.tables import Tables
from ebpf_userspace_exporter.worker.target_files import open_probed

if TYPE_CHECKING:
    from tests.worker.build.conftest import Target

pytestmark = pytest.mark.bpf

Build = Callable[[Program, int], Image]
MakeProgram = Callable[..., Program]

# Tables before, between and after the event tables, so that a wrong number would show in one of them.
CODE = """
struct event_t { u64 probe; u64 value; };
BPF_ARRAY(before, u64, 1);
BPF_PERF_OUTPUT(perf);
BPF_ARRAY(between, u64, 1);
#define SMALL(name) BPF_RINGBUF_OUTPUT(name, 1)
SMALL(copied);
BPF_RINGBUF_OUTPUT(reserved, 1); BPF_ARRAY(after, u64, 1);
int on_work(struct pt_regs *ctx) {
    perf.perf_submit(ctx, &(struct event_t){1, 2}, sizeof(struct event_t));
    if (copied.ringbuf_output(&(struct event_t){3, 4}, sizeof(struct event_t), 0) < 0) { before.increment(0); }
    struct event_t *event = reserved.ringbuf_reserve(sizeof(struct event_t));
    if (!event) return 0;
    event->probe = 5;
    event->value = 6;
    reserved.ringbuf_submit(event, 0);
    return 0;
}
"""
EVENT_TABLES = {"perf", "copied", "reserved"}
CALLS_PER_ORDER = 5  # of the probe `work`


@dataclass(frozen=True, slots=True)
class Attached:
    tables: Tables
    buffers: list[tuple[str, EventBuffer]]

    def taken(self) -> dict[str, int]:
        """Empty the buffers; return how many events came out of each table's."""
        found = dict.fromkeys(sorted(EVENT_TABLES), 0)
        for table, buffer in self.buffers:
            found[table] += sum(len(events) for events in iter(buffer.take, None))
        return found


@contextmanager
def attached(image: Image, pid: int, *, is_read: bool = True) -> Iterator[Attached]:
    with ExitStack() as stack:

        def closing(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        maps = {shape.built_fd: closing(create_map(shape)) for shape in image.maps}
        tables = Tables(image.maps, list(maps.values()), wanted=EVENT_TABLES)
        buffers = tables.open_event_buffers() if is_read else []
        for _, buffer in buffers:
            stack.callback(buffer.close)
        programs = {f.name: closing(load_program(f, maps, uprobe_multi=False)) for f in image.functions}
        files = [closing(open_probed(pid, file)) for file in image.files]
        for fd in attach(programs, image.probes, files, pid, uprobe_multi=False):
            closing(fd)
        yield Attached(tables, buffers)


@pytest.fixture
def image(target: "Target", build: Build, make_program: MakeProgram) -> Image:
    return build(make_program(usdt={"work": "on_work"}, code=CODE, table="before", labels=()), target.pid)


def test_what_is_taken_and_what_is_lost_is_all_there_was(target: "Target", image: Image) -> None:
    with attached(image, target.pid) as serving:
        target.order("g" * 10)
        assert serving.taken() == {"copied": 50, "perf": 50, "reserved": 50}
        assert serving.tables.lost_events() == {"copied": 0, "perf": 0, "reserved": 0}

        target.order("g" * 2000)
        taken, lost = serving.taken(), serving.tables.lost_events()
        assert {table: taken[table] + lost[table] for table in EVENT_TABLES} == dict.fromkeys(EVENT_TABLES, 10_000)
        assert min(lost.values()) > 0

        target.order("g")
        assert serving.taken() == dict.fromkeys(EVENT_TABLES, CALLS_PER_ORDER)
        assert serving.tables.lost_events() == lost


def test_no_table_but_the_one_in_front_counts(target: "Target", image: Image) -> None:
    with attached(image, target.pid) as serving:
        target.order("g" * 200)
        lost = serving.tables.lost_events()["copied"]

        assert lost > 0
        numbers = {name: int.from_bytes(serving.tables.read(name).leaves, "little") for name in ("between", "after")}
        assert numbers == {"between": 0, "after": 0}
        assert int.from_bytes(serving.tables.read("before").leaves, "little") == lost  # the code's own count of them


def test_events_that_nobody_reads_are_lost(target: "Target", image: Image) -> None:
    """The kernel has no record of those of a perf buffer: without a reader there is no buffer."""
    with attached(image, target.pid, is_read=False) as serving:
        target.order("g" * 10)

        assert serving.tables.lost_events() == {"copied": 0, "perf": 50, "reserved": 0}


def test_the_number_is_no_table_of_the_programs_own(target: "Target", image: Image) -> None:
    with attached(image, target.pid, is_read=False) as serving:
        assert serving.tables.usage().keys() == {"after", "before", "between", *EVENT_TABLES}


def test_lines_of_the_code_stay_where_they_are() -> None:
    _, code = counting_code(CODE)

    assert [line for line in code.splitlines() if "int on_work" in line] == [CODE.splitlines()[8]]
    assert len(code.splitlines()) == len(CODE.splitlines())


def test_code_without_event_tables_stays_as_it_is() -> None:
    code = "BPF_HASH(counts, u64); // BPF_PERF_OUTPUT is not for this"

    assert counting_code(code) == ("", code)


def test_a_table_declared_unseen_is_refused(target: "Target", build: Build, make_program: MakeProgram) -> None:
    code = CODE.replace("SMALL(copied);", "#define OTHERWISE BPF_RINGBUF_OUTPUT\nOTHERWISE(copied, 1);")
    with pytest.raises(AttachError, match="table copied: declare it in the code itself") as caught:
        build(make_program(usdt={"work": "on_work"}, code=code, table="before", labels=()), target.pid)
    assert caught.value.reason is Reason.MAP_TYPE
