"""Links are closed side by side by the exit of the process that holds them last, and nothing comes between."""

import contextlib
import os
import random
import select
import signal
import time
from collections import Counter as Occurrences
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from ebpf_userspace_exporter.worker.bpf import closing
from ebpf_userspace_exporter.worker.bpf.closing import close_at_exit
from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.image import Probe

if TYPE_CHECKING:
    from tests.worker.bpf.conftest import Binary, Counter, Target

pytestmark = pytest.mark.bpf

ROUNDS = 20
DEADLINE_SECONDS = 30.0
Load = Callable[[bool], "Counter"]


def links_on(counter: "Counter", binary: "Binary", pid: int, number: int, *, uprobe_multi: bool) -> list[int]:
    """Return so many links on one place."""
    probes = [Probe("f0", 0, binary.offsets["probed"], 0, is_return=False)]
    return [
        link
        for _ in range(number)
        for link in attach(counter.programs, probes, [binary.path], pid, uprobe_multi=uprobe_multi)
    ]


@contextlib.contextmanager
def closing_child(links: Sequence[int]) -> Iterator[int]:
    """Hand the links to a child that is ready to exit, and does when this ends."""
    ready, ready_in = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            close_at_exit(links)
            os.write(ready_in, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(ready_in)
    for link in links:
        os.close(link)
    with os.fdopen(ready, "rb", buffering=0) as reader:
        try:
            assert select.select([reader], [], [], DEADLINE_SECONDS)[0], "it does not get ready"
            assert reader.read(1) == b"."
            yield child
        finally:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


def held_by_threads(pid: int, links: Sequence[int]) -> dict[int, list[int]]:
    """Return which of the links each thread of a process has in its table, the first thread first."""
    tasks = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    tables = {task: {int(name) for name in os.listdir(f"/proc/{pid}/task/{task}/fd")} for task in tasks}
    return {task: sorted(tables[task].intersection(links)) for task in tasks}


@pytest.mark.parametrize(
    ("number", "uprobe_multi"),
    [(1, True), (3, True), (40, True), (3, False)],
    ids=["one", "three", "more than threads", "three perf events"],
)
def test_each_link_waits_in_one_thread_for_the_exit_and_none_in_the_first(
    number: int, uprobe_multi: bool, target: "Target", load_counter: Load
) -> None:
    counter, binary = load_counter(uprobe_multi), target.binary
    untouched = target.memory_at(binary.offsets["probed"], 1)
    links = links_on(counter, binary, target.pid, number, uprobe_multi=uprobe_multi)
    with closing_child(links) as child:
        first, *others = held_by_threads(child, links).values()
        target.call(2)

    assert first == []
    assert Occurrences(link for held in others for link in held) == dict.fromkeys(links, 1)
    assert max(map(len, others)) == -(-number // len(others))
    target.call(5)
    assert counter.counts()[0] == 2 * number
    assert target.memory_at(binary.offsets["probed"], 1) == untouched


def test_where_no_thread_may_have_descriptors_of_its_own_the_exit_closes_all(
    target: "Target", load_counter: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise PermissionError

    monkeypatch.setattr(closing, "unshare_descriptors", refuse)
    untouched = target.memory_at(target.binary.offsets["probed"], 1)
    links = links_on(load_counter(True), target.binary, target.pid, 3, uprobe_multi=True)
    with closing_child(links) as child:
        assert next(iter(held_by_threads(child, links).values())) == sorted(links)

    assert target.memory_at(target.binary.offsets["probed"], 1) == untouched


def test_a_kill_at_any_moment_leaves_no_breakpoint(target: "Target", load_counter: Load) -> None:
    binary, counter, moments = target.binary, load_counter(True), random.Random(7)
    offsets = (binary.offsets["probed"], binary.offsets["also_probed"])
    untouched = [target.memory_at(offset, 1) for offset in offsets]
    probes = [Probe(f"f{number}", 0, offset, 0, is_return=False) for offset in offsets for number in range(4)]
    for _ in range(ROUNDS):
        child = _close_and_exit(attach(counter.programs, probes, [binary.path], target.pid, uprobe_multi=True))
        time.sleep(moments.uniform(0, 0.012))  # any moment will do
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

        # Now: the links of the next round would take what is left out with them.
        assert [target.memory_at(offset, 1) for offset in offsets] == untouched


def _close_and_exit(links: Sequence[int]) -> int:
    child = os.fork()
    if child == 0:
        try:
            close_at_exit(links)
        finally:
            os._exit(0)
    for link in links:
        os.close(link)
    return child
