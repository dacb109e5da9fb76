"""A gauge is what the program holds now: it falls, ends with its key and its process, and is combined as asked."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product.exporter import Exporter, Samples, exporter, series, until
from tests.product.faults import fresh, wait_for_worker
from tests.product.queues import BY_QUEUE, DEPTH, JOBS, LAST_SECONDS, Account, Queues, queues_config, run_queues

pytestmark = pytest.mark.bpf

NAME = f"gauges{os.getpid()}"
METRICS = f"""{{
      counters: [{{name: jobs_total, {JOBS}, {BY_QUEUE}}}],
      gauges: [
        {{name: depth, {DEPTH}, {BY_QUEUE}}},
        {{name: last_seconds, {LAST_SECONDS}, {BY_QUEUE}}}]}}"""
COMBINED = f"""{{
      counters: [{{name: jobs_total, {JOBS}, {BY_QUEUE}}}],
      gauges: [
        {{name: depth, {DEPTH}, {BY_QUEUE}}},
        {{name: depth_max, {DEPTH}, {BY_QUEUE}, combine: max}},
        {{name: depth_min, {DEPTH}, {BY_QUEUE}, combine: min}}]}}"""
GAUGES = ("depth", "depth_max", "depth_min")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gauges") / NAME
    folder.mkdir()
    return folder


@pytest.fixture
def target(folder: Path) -> Iterator[Queues]:
    with run_queues(folder) as running:
        yield running


@pytest.fixture
def other(folder: Path) -> Iterator[Queues]:
    with run_queues(folder) as running:
        yield running


@pytest.fixture
def running(target: Queues) -> Iterator[Exporter]:
    with exporter(queues_config(NAME, METRICS)) as started:
        started.wait_attached("queues", target.pid)
        yield started


@pytest.fixture
def combining(target: Queues, other: Queues) -> Iterator[Exporter]:
    with exporter(queues_config(NAME, COMBINED, target_labels="{service: shop}")) as started:
        until(lambda: enabled(started.scrape()) == 2, f"both attached; log:\n{started.log}")
        yield started


def enabled(samples: Samples) -> int:
    return sum(name == "userspace_exporter_enabled_programs" for name, _ in samples)


def shown(samples: Samples, *metrics: str) -> Samples:
    """Return the samples of these metrics only."""
    names = {f"userspace_exporter_{metric}" for metric in metrics}
    return {key: value for key, value in samples.items() if key[0] in names}


def expected(account: Account, pid: int) -> Samples:
    """Return what there should be of a program by its own account: gauges of the queues that are there."""
    samples = {}
    for number, queue in account.items():
        samples[series("jobs_total", queue=number, pid=pid)] = float(queue.jobs)
        if queue.is_there:
            samples[series("depth", queue=number, pid=pid)] = float(queue.depth)
            samples[series("last_seconds", queue=number, pid=pid)] = queue.last_nanoseconds * 1e-9
    return samples


def test_a_struct_feeds_a_counter_and_two_gauges_that_are_what_the_program_says(
    target: Queues, running: Exporter
) -> None:
    target.work(1, depth=7, nanoseconds=1_500_000_000, times=20)
    target.work(2, depth=-7, nanoseconds=3, times=5)
    target.work(3, depth=-(2**31), nanoseconds=2**53)
    account = target.work(4, depth=2**31 - 1, nanoseconds=0)
    assert shown(fresh(running), "jobs_total", "depth", "last_seconds") == expected(account, target.pid)

    account = target.work(1, depth=-1, nanoseconds=250_000_000)
    assert shown(fresh(running), "jobs_total", "depth", "last_seconds") == expected(account, target.pid)
    assert running.value("depth", queue=1, pid=target.pid) == -1
    assert running.value("last_seconds", queue=1, pid=target.pid) == 0.25


def test_the_next_scrape_after_a_key_is_deleted_has_no_gauge_of_it_and_still_its_counter(
    target: Queues, running: Exporter
) -> None:
    for times in range(1, 6):
        target.work(1, depth=5, times=times)
        target.work(2, depth=6, times=times)
        assert running.value("depth", queue=1, pid=target.pid) == 5
        account = target.remove(1)

        samples = fresh(running)
        assert series("depth", queue=1, pid=target.pid) not in samples
        assert shown(samples, "jobs_total", "depth", "last_seconds") == expected(account, target.pid)
    assert running.value("jobs_total", queue=1, pid=target.pid) == 1 + 2 + 3 + 4 + 5


def test_a_worker_that_is_killed_leaves_gauges_and_its_successor_has_those_of_now(
    target: Queues, running: Exporter
) -> None:
    for queue in (1, 2, 3):
        target.work(queue, depth=50, times=10)
    fresh(running)
    worker = wait_for_worker(running, target.pid)
    supervisor = running.process.pid
    os.kill(supervisor, signal.SIGSTOP)  # so that no other worker can come
    try:
        os.kill(worker, signal.SIGKILL)
        target.work(1, depth=-3)
        target.remove(2)
        assert shown(running.scrape(), "depth") == {series("depth", queue=q, pid=target.pid): 50 for q in (1, 2, 3)}
        account = target.work(4, depth=9)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    wait_for_worker(running, target.pid, after=worker)

    assert shown(fresh(running), "jobs_total", "depth", "last_seconds") == expected(account, target.pid)


def test_gauges_of_a_process_that_exits_are_gone_while_its_counters_stay(target: Queues, running: Exporter) -> None:
    account = target.work(1, depth=5, times=3)
    assert running.value("depth", queue=1, pid=target.pid) == 5
    target.exit()
    until(lambda: running.value("targets", name="queues", state="exited") == 1, "exited")

    samples = fresh(running)
    assert shown(samples, "depth", "last_seconds") == {}
    assert shown(samples, "jobs_total") == {series("jobs_total", queue=1, pid=target.pid): account[1].jobs}


def test_gauges_of_processes_with_equal_labels_are_their_sum_largest_and_smallest(
    target: Queues, other: Queues, combining: Exporter
) -> None:
    for mine, its in ((5, 8), (-5, 3), (-5, -8), (0, 0)):
        target.work(1, depth=mine)
        account = other.work(1, depth=its)
        samples = fresh(combining)
        assert [samples[series(name, queue=1, service="shop")] for name in GAUGES] == [
            mine + its,
            max(mine, its),
            min(mine, its),
        ]
    assert samples[series("jobs_total", queue=1, service="shop")] == 2 * account[1].jobs == 8

    target.work(2, depth=-4)
    samples = fresh(combining)
    assert {samples[series(name, queue=2, service="shop")] for name in GAUGES} == {-4}


def test_a_process_that_exits_takes_its_part_out_of_gauges_with_equal_labels_and_leaves_its_counts(
    target: Queues, other: Queues, combining: Exporter
) -> None:
    target.work(1, depth=-5, times=3)
    target.work(2, depth=1, times=7)
    other.work(1, depth=8, times=4)
    samples = fresh(combining)
    assert [samples[series(name, queue=1, service="shop")] for name in GAUGES] == [3, 8, -5]

    target.exit()
    left = {series(name, queue=1, service="shop"): 8.0 for name in GAUGES}
    samples = until(lambda: scrape_with_gauges(combining, left), "one is let go")
    assert samples[series("jobs_total", queue=1, service="shop")] == 7
    assert samples[series("jobs_total", queue=2, service="shop")] == 7

    other.exit()
    samples = until(lambda: scrape_with_gauges(combining, {}), "both are let go")
    assert samples[series("jobs_total", queue=1, service="shop")] == 7
    assert samples[series("jobs_total", queue=2, service="shop")] == 7


def scrape_with_gauges(running: Exporter, gauges: Samples) -> Samples | None:
    """Return a scrape if it has these gauges."""
    samples = running.scrape()
    return samples if shown(samples, *GAUGES) == gauges else None
