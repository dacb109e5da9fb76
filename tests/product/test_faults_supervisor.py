"""The exporter is killed at any moment: nothing of it runs on, no target is left slow, and the next start goes on."""

import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.product.exporter import Exporter, exporter, series, start, until
from tests.product.faults import (
    ATTACH_IDS,
    ATTACH_MODES,
    Account,
    descriptors_at_rest,
    fresh,
    is_alive,
    processes_of,
    wait_for_worker,
    wait_until_gone,
    worker_of,
)
from tests.product.programs import PythonTarget, gc_config, gunicorn_app, python_target
from tests.product.semaphores import raised_semaphores

pytestmark = pytest.mark.bpf

NAME = f"faults{os.getpid()}"  # of the targets: nobody else's exporter looks for it

GONE_SECONDS = 2.0  # after which nothing of a killed exporter may run
BACK_SECONDS = 20.0  # after which a killed web must answer again: a second or two where nobody else works
CONFIG = gc_config(binary_name=NAME)


@pytest.fixture
def target() -> Iterator[PythonTarget]:
    with python_target(NAME) as started:
        yield started


@pytest.fixture
def running(target: PythonTarget) -> Iterator[Exporter]:
    with exporter(CONFIG) as started:
        started.wait_attached("gc_total", target.pid)
        yield started


Begin = Callable[..., Exporter]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start exporters one after another in one folder; whatever became of them, nothing is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="exporter-test-"))
    folder.chmod(0o755)
    started: list[Exporter] = []

    def begin_one(mode: Mapping[str, str] | None = None) -> Exporter:
        started.append(start(folder, CONFIG, environment=mode))
        return started[-1]

    try:
        yield begin_one
    finally:
        for each in started:
            each.process.kill()
            each.process.wait()
        wait_until_gone(processes_of(folder))
        shutil.rmtree(folder)


def kill_supervisor(running: Exporter, *, and_all_others: bool = False) -> None:
    """Kill the supervisor, alone or with all others, and hold that nothing is left of any within the time."""
    # Asked before: a process that is about to exit has no command line any more, and may still hold its probes.
    others = processes_of(running.folder)
    running.process.kill()
    for pid in others if and_all_others else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.process.wait()
    wait_until_gone(others, seconds=GONE_SECONDS)
    assert not processes_of(running.folder)


def test_killed_supervisor_takes_every_other_process_along(running: Exporter, target: PythonTarget) -> None:
    assert len(processes_of(running.folder)) == 5  # with the fork server, one worker, gunicorn's master and its worker

    kill_supervisor(running)

    assert raised_semaphores(target.pid) == {}


def test_killed_supervisor_takes_along_a_web_with_requests_in_flight(running: Exporter, target: PythonTarget) -> None:
    worker = wait_for_worker(running, target.pid)
    os.kill(worker, signal.SIGSTOP)  # the refresh waits for it
    with contextlib.ExitStack() as stack:
        for request in (b"GET /metrics HTTP/1.1\r\nHost: exporter\r\n\r\n", b"GET /metr"):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=10))
            client.sendall(request)
        until(lambda: refresh_is_under_way(running), "a request that waits")

        kill_supervisor(running)


def refresh_is_under_way(running: Exporter) -> bool:
    """Return whether anybody is connected to the control socket."""
    path = str(running.state_dir / "control.sock")
    lines = Path("/proc/net/unix").read_text().splitlines()
    return any(line.endswith(path) and line.split()[5] == "03" for line in lines)


def test_killed_supervisor_takes_along_a_builder_at_work(begin: Begin, target: PythonTarget) -> None:
    running = begin()
    builder = until(lambda: next(iter(running.children("exporter-build")), None), "a builder")
    until(lambda: b"libbcc" in Path(f"/proc/{builder}/maps").read_bytes(), "the builder has loaded the compiler")
    assert is_alive(builder)

    kill_supervisor(running)

    assert raised_semaphores(target.pid) == {}


@pytest.mark.parametrize("mode", ATTACH_MODES, ids=ATTACH_IDS)
def test_killed_at_any_moment_of_its_start_the_exporter_leaves_no_process_and_no_semaphore_raised(
    mode: Mapping[str, str], begin: Begin
) -> None:
    chance = random.Random(f"kill {mode}")
    with python_target(NAME) as target, python_target(NAME) as neighbour:
        for awaited in ("", "", "", "exporter-build", "exporter-build", "exporter-worker", "exporter-worker"):
            running = begin(mode)
            if awaited:
                until(partial(running.children, awaited), f"{awaited} is there")
            time.sleep(chance.uniform(0, 0.05 if awaited else 1.5))

            kill_supervisor(running, and_all_others=chance.random() < 0.5)

            assert raised_semaphores(target.pid) == raised_semaphores(neighbour.pid) == {}


@pytest.mark.parametrize("mode", ATTACH_MODES, ids=ATTACH_IDS)
def test_killed_exporter_leaves_no_semaphore_raised_in_processes_forked_meanwhile(mode: Mapping[str, str]) -> None:
    with gunicorn_app(workers=2) as app, exporter(gc_config(binary_name="gunicorn"), environment=mode) as running:
        running.wait_attached("gc_total", app.process.pid, *app.workers)
        assert raised_semaphores(app.process.pid) == {"python:gc__start": 1}
        os.kill(app.process.pid, signal.SIGTTIN)  # one worker more, with its parent's breakpoints and semaphores
        children = Path(f"/proc/{app.process.pid}/task/{app.process.pid}/children")
        workers = until(lambda: pids if len(pids := children.read_text().split()) == 3 else None, "a third worker")

        kill_supervisor(running)

        assert [raised_semaphores(pid) for pid in (app.process.pid, *map(int, workers))] == [{}] * 4


def test_next_start_takes_over_the_state_directory_of_a_killed_exporter(begin: Begin, target: PythonTarget) -> None:
    first = begin()
    first.wait_ready()
    first.wait_attached("gc_total", target.pid)
    target.collect(3)
    fresh(first)
    worker = wait_for_worker(first, target.pid)
    os.kill(worker, signal.SIGSTOP)
    first.process.kill()
    first.process.wait()
    (first.state_dir / "counter_gone-01234567_1.db").write_bytes(b"")
    (first.state_dir / "counter_gone-01234567_1.db.7.tmp").mkdir()

    second = begin()
    second.wait_ready()
    account = Account.opened(second, target)
    target.collect(5)

    assert account.balance() == (5, 5)
    assert account.counted == 0  # of a new exporter's maps, not what the old one has left
    assert not any("gone" in name for name in os.listdir(second.state_dir))
    assert second.stop() == 0
    assert not second.state_dir.exists() or os.listdir(second.state_dir) == []


def test_killed_gunicorn_is_back_in_time(running: Exporter, target: PythonTarget) -> None:
    account = Account.opened(running, target)
    before = descriptors_at_rest(running.process.pid)
    for _ in range(3):
        # Its worker answers for a moment after it, and dies then.
        master = until(lambda: web_master(running), "a gunicorn")
        os.kill(master, signal.SIGKILL)
        wait_until_gone({master})

        target.collect(4)
        until(lambda: answers(running), "metrics are back", seconds=BACK_SECONDS)
    assert account.balance() == (12, 12)
    assert descriptors_at_rest(running.process.pid) == before


def test_killed_worker_of_gunicorn_is_back_in_time(running: Exporter) -> None:
    master = web_master(running)
    (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()

    os.kill(int(worker), signal.SIGKILL)

    until(lambda: answers(running), "metrics are back", seconds=BACK_SECONDS)
    assert web_master(running) == master


def test_gunicorn_killed_before_the_first_scrape_does_not_end_the_exporter(begin: Begin) -> None:
    running = begin()
    for _ in range(3):
        master = until(lambda: web_master(running), "a gunicorn")
        assert master
        os.kill(master, signal.SIGKILL)
        wait_until_gone({master})

    running.wait_ready()
    assert running.scrape()
    assert running.stop() == 0


def web_master(running: Exporter) -> int | None:
    """Return the pid of gunicorn's master; None while there is none."""
    pids = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return next((int(pid) for pid in pids if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()), None)
    return None


def answers(running: Exporter) -> bool:
    with contextlib.suppress(OSError):
        return running.get(seconds=2).status == 200
    return False


def test_stopped_supervisor_costs_freshness_alone(running: Exporter, target: PythonTarget) -> None:
    account = Account.opened(running, target)
    target.collect(2)
    shown = fresh(running)
    before = descriptors_at_rest(running.process.pid)
    worker = worker_of(running, target.pid)

    os.kill(running.process.pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            target.collect(2)
            response = running.get()
            assert (response.status, response.seconds < 2) == (200, True)
        stale = running.scrape()
        assert stale[series("refresh_successful")] == 0
        assert series("stale_workers") not in stale
        assert stale[series("gc_total", gen=0, pid=target.pid)] == shown[series("gc_total", gen=0, pid=target.pid)]
    finally:
        os.kill(running.process.pid, signal.SIGCONT)

    assert account.balance() == (8, 8)
    assert running.value("refresh_successful") == 1
    assert worker_of(running, target.pid) == worker
    assert descriptors_at_rest(running.process.pid) == before
