"""What the exporter says of the maps and functions that it loaded is what the kernel says of them."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product.exporter import Exporter, exporter, series, until
from tests.product.faults import fresh, scraping, wait_for_worker
from tests.product.queues import BY_QUEUE, JOBS, Queues, queues_config, run_queues

pytestmark = pytest.mark.bpf

NAME = f"usage{os.getpid()}"
METRICS = f"{{counters: [{{name: jobs_total, {JOBS}, {BY_QUEUE}}}]}}"
ROOM = 16
LEAF_BYTES, KEY_BYTES = 32, 4
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("usage") / NAME
    folder.mkdir()
    return folder


@pytest.fixture
def target(folder: Path) -> Iterator[Queues]:
    with run_queues(folder) as running:
        yield running


@pytest.fixture
def running(target: Queues) -> Iterator[Exporter]:
    with exporter(queues_config(NAME, METRICS, max_entries=ROOM)) as started:
        started.wait_attached("queues", target.pid)
        yield started


@contextlib.contextmanager
def kernel_statistics() -> Iterator[None]:
    """Have the kernel count runs, as an administrator would; then set it back."""
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        yield
    finally:
        STATISTICS.write_text(before)


def described(pid: int, kind: str) -> list[dict[str, str]]:
    """Return what the kernel says of the maps (`map_id`) or programs (`prog_id`) that a process holds."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fdinfo"):
        with contextlib.suppress(FileNotFoundError):
            words = Path(f"/proc/{pid}/fdinfo/{name}").read_text()
            fields = dict(re.findall(r"^(\w+):\s+(.*)$", words, re.MULTILINE))
            if kind in fields and "link_type" not in fields:
                found.append(fields)
    return found


def test_a_map_that_is_full_says_so_while_the_program_counts_more_than_is_exported(
    target: Queues, running: Exporter
) -> None:
    for queue in range(ROOM):
        account = target.work(queue, times=3)
        entries = running.value("map_entries", name="queues", map="queues")
        assert entries == len(account) == queue + 1
    assert running.total("jobs_total") == sum(queue.jobs for queue in account.values())

    for queue in range(ROOM, ROOM + 8):
        account = target.work(queue, times=3)
    samples = fresh(running)
    assert samples[series("map_entries", name="queues", map="queues")] == ROOM
    assert samples[series("map_max_entries", name="queues", map="queues")] == ROOM
    assert running.total("jobs_total") == 3 * ROOM
    assert sum(queue.jobs for queue in account.values()) == 3 * (ROOM + 8)

    target.remove(0)
    assert running.value("map_entries", name="queues", map="queues") == ROOM - 1


def test_the_memory_of_a_map_is_what_the_kernel_says_of_it(target: Queues, running: Exporter, folder: Path) -> None:
    (queues,) = described(running.process.pid, "map_id")
    assert int(queues["memlock"]) >= ROOM * (KEY_BYTES + LEAF_BYTES)
    assert running.value("map_memory_bytes", name="queues", map="queues") == int(queues["memlock"])

    with run_queues(folder) as other:
        running.wait_attached("queues", other.pid)
        both = running.value("map_memory_bytes", name="queues", map="queues")
        assert both == sum(int(each["memlock"]) for each in described(running.process.pid, "map_id"))
        assert both == 2 * int(queues["memlock"])


def test_the_tags_of_functions_are_those_of_the_kernel(target: Queues, running: Exporter) -> None:
    worker = wait_for_worker(running, target.pid)
    loaded = {program["prog_tag"] for program in described(worker, "prog_id")}
    labels = [dict(each) for each in running.values("program_info", name="queues")]
    shown = {each["function"]: each["tag"] for each in labels}
    assert shown.keys() == {"on_worked", "on_removed"}
    assert set(shown.values()) == loaded
    assert len(loaded) == 2


def test_runs_are_the_hits_of_the_probe_and_never_fall_whoever_goes(
    target: Queues, running: Exporter, folder: Path
) -> None:
    with kernel_statistics(), scraping(running, "program_run") as scrapes:
        target.work(1, times=700)
        target.remove(1)
        worker = wait_for_worker(running, target.pid)
        assert (runs(running, "on_worked"), runs(running, "on_removed")) == (700, 1)

        os.kill(worker, signal.SIGKILL)
        target.work(2, times=30)
        wait_for_worker(running, target.pid, after=worker)
        assert runs(running, "on_worked") == 730

        with run_queues(folder) as other:
            running.wait_attached("queues", other.pid)
            other.work(3, times=200)
            assert runs(running, "on_worked") == 930
            other.work(3, times=40)  # which only its last report can tell
            other.exit()
            until(lambda: running.value("targets", name="queues", state="exited") == 1, "exited")
        assert runs(running, "on_worked") == 970
        assert 0 < running.total("program_run_seconds_total", function="on_worked") < 1
        scrapes.wait_for(2)


def runs(running: Exporter, function: str) -> int:
    return int(fresh(running)[series("program_runs_total", name="queues", function=function)])
