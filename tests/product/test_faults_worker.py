"""A worker may die, hang or run out of memory at any moment: nobody else notices, and nothing is lost."""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.product.exporter import Exporter, exporter, series, until
from tests.product.faults import (
    ATTACH_IDS,
    ATTACH_MODES,
    Account,
    descriptors,
    descriptors_at_rest,
    fresh,
    is_alive,
    scraping,
    series_config,
    traffic,
    wait_for_worker,
    wait_until_gone,
    worker_of,
)
from tests.product.programs import PythonTarget, gc_config, python_target

pytestmark = pytest.mark.bpf

NAME = f"faults{os.getpid()}"  # of the targets: nobody else's exporter looks for it


@pytest.fixture(params=ATTACH_MODES, ids=ATTACH_IDS)
def mode(request: pytest.FixtureRequest) -> Mapping[str, str]:
    chosen: Mapping[str, str] = request.param
    return chosen


@pytest.fixture
def target() -> Iterator[PythonTarget]:
    with python_target(NAME) as started:
        yield started


@pytest.fixture
def neighbour() -> Iterator[PythonTarget]:
    with python_target(NAME) as started:
        yield started


@pytest.fixture
def running(mode: Mapping[str, str], target: PythonTarget, neighbour: PythonTarget) -> Iterator[Exporter]:
    with exporter(gc_config(binary_name=NAME), environment=mode) as started:
        started.wait_attached("gc_total", target.pid, neighbour.pid)
        yield started


def kill(worker: int) -> None:
    os.kill(worker, signal.SIGKILL)


def crash(worker: int) -> None:
    os.kill(worker, signal.SIGSEGV)


def stop(worker: int) -> None:
    os.kill(worker, signal.SIGSTOP)


@pytest.mark.parametrize("fault", [kill, crash, stop])
def test_worker_fault_under_traffic_loses_no_event_and_touches_no_other_target(
    fault: Callable[[int], None], running: Exporter, target: PythonTarget, neighbour: PythonTarget
) -> None:
    account, other = Account.opened(running, target), Account.opened(running, neighbour)
    neighbour.collect(7)
    worker, others = wait_for_worker(running, target.pid), wait_for_worker(running, neighbour.pid)

    with scraping(running, "gc_total") as scrapes, traffic(target):
        scrapes.wait_for(2)
        fault(worker)
        scrapes.wait_for(2)
        wait_for_worker(running, target.pid, after=worker)

    counted, own = account.balance()
    assert counted == own > 0
    assert other.balance() == (7, 7)
    assert worker_of(running, neighbour.pid) == others
    assert running.total("worker_restarts_total", name="gc_total") == 1


def test_worker_without_memory_is_replaced_and_loses_no_event(mode: Mapping[str, str], target: PythonTarget) -> None:
    with exporter(series_config(binary_name=NAME), environment=mode) as running:
        running.wait_attached("gc_total", target.pid)
        assert running.total("gc_total") == 0
        worker = wait_for_worker(running, target.pid)

        with scraping(running, "gc_total") as scrapes:
            target.collect(10)
            fresh(running)
            # Not a byte of address space more: there is no room for so many series.
            resource.prlimit(worker, resource.RLIMIT_AS, (1, 1))
            target.collect(9_000)  # max_series is 10 000
            scrapes.wait_for(2)
            wait_for_worker(running, target.pid, after=worker)

        assert running.total("gc_total") == 9_010


def test_events_without_any_worker_are_counted_by_the_next(running: Exporter, target: PythonTarget) -> None:
    account = Account.opened(running, target)
    target.collect(5)
    fresh(running)
    supervisor, worker = running.process.pid, wait_for_worker(running, target.pid)

    os.kill(supervisor, signal.SIGSTOP)  # so that no other worker can come
    try:
        kill(worker)
        wait_until_gone({worker})
        target.collect(1000)
    finally:
        os.kill(supervisor, signal.SIGCONT)

    wait_for_worker(running, target.pid, after=worker)
    assert account.balance() == (1005, 1005)


def test_repeated_kills_in_a_row_lose_nothing_and_leave_nothing(running: Exporter, target: PythonTarget) -> None:
    account = Account.opened(running, target)
    worker = wait_for_worker(running, target.pid)
    before = descriptors_at_rest(running.process.pid), descriptors(worker), sorted(os.listdir(running.state_dir))

    with scraping(running, "gc_total"), traffic(target):
        for _ in range(4):
            kill(worker)
            worker = wait_for_worker(running, target.pid, after=worker)

    counted, own = account.balance()
    assert counted == own > 0
    after = descriptors_at_rest(running.process.pid), descriptors(worker), sorted(os.listdir(running.state_dir))
    assert after == before


def test_successors_killed_as_soon_as_they_are_forked_lose_nothing(running: Exporter, target: PythonTarget) -> None:
    account = Account.opened(running, target)
    worker = wait_for_worker(running, target.pid)
    before = descriptors_at_rest(running.process.pid), sorted(os.listdir(running.state_dir))

    with scraping(running, "gc_total"), traffic(target):
        for pause in (0.0, 0.002, 0.01):
            kill(worker)
            worker = next_child(running, children(running) | {worker})
            time.sleep(pause)
        kill(worker)
        wait_for_worker(running, target.pid, after=worker)

    counted, own = account.balance()
    assert counted == own > 0
    assert (descriptors_at_rest(running.process.pid), sorted(os.listdir(running.state_dir))) == before


def test_worker_killed_while_it_attaches_counts_nothing_twice(mode: Mapping[str, str], neighbour: PythonTarget) -> None:
    with exporter(gc_config(binary_name=NAME), environment=mode) as running, ExitStack() as stack:
        running.wait_attached("gc_total", neighbour.pid)  # the image is there: a new worker attaches at once
        for pause in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04):
            before = descriptors_at_rest(running.process.pid)
            known = children(running)
            target = stack.enter_context(python_target(NAME))
            worker = next_child(running, known)
            time.sleep(pause)
            kill(worker)
            wait_for_worker(running, target.pid, after=worker)

            account = Account.opened(running, target)
            with traffic(target):
                fresh(running)
            counted, own = account.balance()
            assert counted == own > 0, pause
            # One pidfd, map, program, link and channel for the new target, as if nothing had happened.
            after = descriptors_at_rest(running.process.pid)
            assert (after - before).total() == 5, pause
            assert after.keys() == before.keys(), pause


def test_worker_killed_during_the_last_read_of_its_target_has_a_successor_that_reads(
    running: Exporter, target: PythonTarget
) -> None:
    account = Account.opened(running, target)
    worker = wait_for_worker(running, target.pid)
    stop(worker)
    target.collect(31)
    target.process.kill()  # the stopped worker cannot read; the supervisor has asked it to
    until(lambda: running.total("targets", name="gc_total", state="finishing") == 1, "the last read is asked for")
    kill(worker)

    key = series("gc_total", gen=0, pid=target.pid)
    until(lambda: running.scrape().get(key, 0) == account.counted + 31, "the last values")
    assert not is_alive(worker)


def children(running: Exporter) -> set[int]:
    pid = running.process.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def next_child(running: Exporter, known: set[int]) -> int:
    """Return the next child that is forked, without waiting for it to do anything, not even to take its name."""
    return until(lambda: next(iter(children(running) - known), None), "another child", pause=0.0)
