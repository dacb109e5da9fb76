"""Attached programs count exactly the target's calls, by either way, and detach without a trace."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.image import Probe
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

if TYPE_CHECKING:
    from tests.worker.bpf.conftest import Binary, Counter, Target

pytestmark = pytest.mark.bpf

BOTH_WAYS = pytest.mark.parametrize("uprobe_multi", [True, False], ids=["uprobe_multi", "perf"])
Load = Callable[[bool], "Counter"]
Attach = Callable[..., list[int]]


@pytest.fixture
def attach_for_test() -> Iterator[Attach]:
    """`attach`, undone at the end of the test where the test did not."""
    attached: list[int] = []

    def attach_and_note(*arguments: object, **options: object) -> list[int]:
        links: list[int] = attach(*arguments, **options)  # type: ignore[arg-type]  # handed on as they come
        attached.extend(links)
        return links

    yield attach_and_note
    for link in attached:
        with contextlib.suppress(OSError):
            os.close(link)


def probe(function: str, offset: int, ref_ctr_offset: int = 0, *, is_return: bool = False) -> Probe:
    return Probe(function, 0, offset, ref_ctr_offset, is_return)


def wait_for_semaphore(target: "Target", expected: int) -> int:
    """Return the semaphore's value once it is as expected, or after a generous time."""
    deadline = time.monotonic() + 20
    while (value := target.semaphore()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


@BOTH_WAYS
def test_entries_and_returns_of_every_thread_are_counted_exactly(
    uprobe_multi: bool, target: "Target", load_counter: Load, attach_for_test: Attach
) -> None:
    counter, offsets = load_counter(uprobe_multi), target.binary.offsets
    probes = [
        probe("f0", offsets["probed"]),
        probe("f1", offsets["probed"], is_return=True),
        probe("f2", offsets["also_probed"]),
        probe("f3", offsets["probed"]),
        probe("f3", offsets["also_probed"]),
    ]

    attach_for_test(counter.programs, probes, [target.binary.path], target.pid, uprobe_multi=uprobe_multi)
    target.call(100)
    target.call_in_thread(10)

    assert counter.counts() == [110, 110, 220, 330]


@BOTH_WAYS
def test_other_processes_and_forked_children_are_not_counted(
    uprobe_multi: bool, start_target: Callable[[], "Target"], load_counter: Load, attach_for_test: Attach
) -> None:
    watched, other = start_target(), start_target()
    counter = load_counter(uprobe_multi)
    probes = [probe("f0", watched.binary.offsets["probed"])]

    attach_for_test(counter.programs, probes, [watched.binary.path], watched.pid, uprobe_multi=uprobe_multi)
    other.call(50)
    watched.call(7)

    assert counter.counts()[0] == 7


@BOTH_WAYS
def test_a_place_named_twice_counts_once(
    uprobe_multi: bool, target: "Target", load_counter: Load, attach_for_test: Attach
) -> None:
    counter, place = load_counter(uprobe_multi), target.binary.offsets["probed"]

    probes = [probe("f0", place), probe("f0", place)]
    attach_for_test(counter.programs, probes, [target.binary.path], target.pid, uprobe_multi=uprobe_multi)
    target.call(9)

    assert counter.counts()[0] == 9


def test_one_link_holds_all_offsets_of_a_function(
    target: "Target", load_counter: Load, attach_for_test: Attach
) -> None:
    counter, offsets = load_counter(True), target.binary.offsets
    probes = [
        probe("f0", offsets["probed"]),
        probe("f0", offsets["also_probed"]),
        probe("f0", offsets["probed"], is_return=True),
    ]

    links = attach_for_test(counter.programs, probes, [target.binary.path], target.pid, uprobe_multi=True)
    target.call(5)

    assert len(links) == 2
    assert counter.counts()[0] == 20


@BOTH_WAYS
def test_an_open_descriptor_is_probed_even_where_its_path_leads_elsewhere(
    uprobe_multi: bool, target: "Target", load_counter: Load, attach_for_test: Attach
) -> None:
    counter = load_counter(uprobe_multi)
    file = os.open(f"/proc/{target.pid}/exe", os.O_PATH | os.O_CLOEXEC)
    try:
        probes = [probe("f0", target.binary.offsets["probed"])]
        attach_for_test(counter.programs, probes, [file], target.pid, uprobe_multi=uprobe_multi)
    finally:
        os.close(file)
    target.call(11)

    assert counter.counts()[0] == 11


@BOTH_WAYS
def test_closing_ends_the_counting_and_takes_the_breakpoint_out(
    uprobe_multi: bool, target: "Target", load_counter: Load, open_descriptors: Callable[[], list[str]]
) -> None:
    counter, place = load_counter(uprobe_multi), target.binary.offsets["probed"]
    descriptors, original = open_descriptors(), target.memory_at(place, 4)

    links = attach(counter.programs, [probe("f0", place)], [target.binary.path], target.pid, uprobe_multi=uprobe_multi)
    target.call(3)
    probed = target.memory_at(place, 4)
    for link in links:
        os.close(link)
    target.call(5)

    assert counter.counts()[0] == 3
    assert probed != original
    assert target.memory_at(place, 4) == original
    assert open_descriptors() == descriptors


@BOTH_WAYS
def test_descriptors_are_close_on_exec(
    uprobe_multi: bool, target: "Target", load_counter: Load, attach_for_test: Attach
) -> None:
    probes = [probe("f0", target.binary.offsets["probed"])]
    counter = load_counter(uprobe_multi)

    links = attach_for_test(counter.programs, probes, [target.binary.path], target.pid, uprobe_multi=uprobe_multi)

    assert not any(map(os.get_inheritable, links))


@BOTH_WAYS
def test_a_semaphore_is_raised_while_attached_and_zero_after(
    uprobe_multi: bool, target: "Target", load_counter: Load, attach_for_test: Attach
) -> None:
    counter, (offset, semaphore) = load_counter(uprobe_multi), target.binary.usdt
    readings = [target.semaphore()]

    links = attach_for_test(
        counter.programs,
        [probe("f0", offset, semaphore)],
        [target.binary.path],
        target.pid,
        uprobe_multi=uprobe_multi,
    )
    readings.append(target.semaphore())
    target.call(13)
    for link in links:
        os.close(link)
    readings.append(wait_for_semaphore(target, 0))

    assert readings == [0, 1, 0]
    assert counter.counts()[0] == 13


@BOTH_WAYS
def test_a_semaphore_is_zero_after_its_holder_is_killed(
    uprobe_multi: bool, target: "Target", load_counter: Load
) -> None:
    counter, (offset, semaphore) = load_counter(uprobe_multi), target.binary.usdt
    ready, ready_in = os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            probes = [probe("f0", offset, semaphore)]
            attach(counter.programs, probes, [target.binary.path], target.pid, uprobe_multi=uprobe_multi)
            os.write(ready_in, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(ready_in)
    try:
        assert os.read(ready, 1) == b"."
        raised = target.semaphore()
    finally:
        os.close(ready)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)

    assert raised == 1
    assert wait_for_semaphore(target, 0) == 0


@BOTH_WAYS
@pytest.mark.parametrize("theirs_has_it", [True, False], ids=["theirs with, ours without", "theirs without, ours with"])
def test_another_semaphore_in_force_is_the_reason_other_tracer(
    theirs_has_it: bool, uprobe_multi: bool, target: "Target", load_counter: Load, attach_for_test: Attach
) -> None:
    counter, (offset, semaphore) = load_counter(uprobe_multi), target.binary.usdt
    theirs, ours = (semaphore, 0) if theirs_has_it else (0, semaphore)
    files = [target.binary.path]
    attach_for_test(counter.programs, [probe("f0", offset, theirs)], files, target.pid, uprobe_multi=uprobe_multi)

    with pytest.raises(AttachError, match=f"attach f1 to {target.binary.path} at {offset:#x}: ") as caught:
        attach(counter.programs, [probe("f1", offset, ours)], files, target.pid, uprobe_multi=uprobe_multi)

    assert caught.value.reason is Reason.OTHER_TRACER


@BOTH_WAYS
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("end", "beyond the end of the file"),
        ("odd semaphore", "odd or beyond"),
        ("trap", "the instruction there cannot be probed"),
    ],
)
def test_a_bad_place_is_told_from_another_tracer(
    place: str, words: str, uprobe_multi: bool, target: "Target", load_counter: Load
) -> None:
    counter, offsets, (usdt, semaphore) = load_counter(uprobe_multi), target.binary.offsets, target.binary.usdt
    bad = {
        "end": probe("f1", 1 << 40),
        "odd semaphore": probe("f1", usdt, semaphore + 1),
        "trap": probe("f1", offsets["trap"]),
    }

    with pytest.raises(AttachError, match=words) as caught:
        attach(counter.programs, [bad[place]], [target.binary.path], target.pid, uprobe_multi=uprobe_multi)

    assert caught.value.reason is Reason.ATTACH


@BOTH_WAYS
def test_one_bad_place_leaves_nothing_attached(
    uprobe_multi: bool, target: "Target", load_counter: Load, open_descriptors: Callable[[], list[str]]
) -> None:
    counter, place = load_counter(uprobe_multi), target.binary.offsets["probed"]
    probes = [probe("f0", place), probe("f1", place, is_return=True), probe("f2", 1 << 40)]
    descriptors, original = open_descriptors(), target.memory_at(place, 4)

    with pytest.raises(AttachError, match=r"attach f2 to .* at 0x10000000000"):
        attach(counter.programs, probes, [target.binary.path], target.pid, uprobe_multi=uprobe_multi)

    assert open_descriptors() == descriptors
    assert target.memory_at(place, 4) == original


@BOTH_WAYS
def test_a_file_that_is_not_there_is_named(uprobe_multi: bool, target: "Target", load_counter: Load) -> None:
    counter = load_counter(uprobe_multi)

    with pytest.raises(AttachError, match=r"/no/such/file at 0x10: No such file or directory \(ENOENT\)") as caught:
        attach(counter.programs, [probe("f0", 16)], ["/no/such/file"], target.pid, uprobe_multi=uprobe_multi)

    assert caught.value.reason is Reason.ATTACH


@BOTH_WAYS
def test_a_process_that_is_gone_is_the_reason_target_changed(
    uprobe_multi: bool, binary: "Binary", load_counter: Load
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    counter = load_counter(uprobe_multi)

    with pytest.raises(AttachError) as caught:
        attach(
            counter.programs,
            [probe("f0", binary.offsets["probed"])],
            [binary.path],
            gone.pid,
            uprobe_multi=uprobe_multi,
        )

    assert caught.value.reason is Reason.TARGET_CHANGED


@BOTH_WAYS
def test_a_full_descriptor_table_is_told_and_leaves_nothing(
    uprobe_multi: bool, target: "Target", load_counter: Load, open_descriptors: Callable[[], list[str]]
) -> None:
    """The last of three attachments finds no free descriptor."""
    counter, place = load_counter(uprobe_multi), target.binary.offsets["probed"]
    probes = [probe(function, place) for function in ("f0", "f1", "f2")]
    before = open_descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(3)]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[2], limits[1]))
    try:
        with pytest.raises(AttachError, match=r"attach f2 .*LimitNOFILE") as caught:
            attach(counter.programs, probes, [target.binary.path], target.pid, uprobe_multi=uprobe_multi)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert caught.value.reason is Reason.DESCRIPTORS
    assert open_descriptors() == before


def test_perf_events_without_capabilities_name_the_one_that_is_missing(
    target: "Target", load_counter: Load, as_nobody: Callable[..., tuple[str, str]]
) -> None:
    counter, probes = load_counter(False), [probe("f0", target.binary.offsets["probed"])]

    reason, message = as_nobody(attach, counter.programs, probes, ["/bin/true"], target.pid, uprobe_multi=False)

    assert reason == Reason.PERMISSION
    assert "needs CAP_SYS_ADMIN" in message


def test_a_message_with_many_places_stays_short(target: "Target", load_counter: Load) -> None:
    probes = [probe("f0", (1 << 40) + place) for place in range(100)]

    with pytest.raises(AttachError, match=r"at 0x10000000000, .*0x10000000003 and 96 more: ") as caught:
        attach(load_counter(True).programs, probes, [target.binary.path], target.pid, uprobe_multi=True)

    assert len(caught.value.message) < 400
