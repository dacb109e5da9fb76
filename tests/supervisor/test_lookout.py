"""When which processes are looked at: real processes, and events that come, or not, as each test says."""

import os
import shutil
import subprocess
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import pytest
import structlog

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor import lookout, processes
from ebpf_userspace_exporter.supervisor.entry import Entry
from ebpf_userspace_exporter.supervisor.lookout import REREAD_SECONDS, Lookout
from ebpf_userspace_exporter.supervisor.matching import definitions
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.proc_events import ProcEvents
from ebpf_userspace_exporter.supervisor.processes import Process, read_process
from ebpf_userspace_exporter.supervisor.targets import Slot

NAME = "watched-program"
PROGRAM = Program(name="calls", attachment=Selector(binary_name=(NAME,)), code="")
SCAN_SECONDS = 10.0
LATER = 1_000_000.0  # of a clock that is made up


class Told(ProcEvents):
    """Tells what a test has put into `pids`."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self.has_overflowed = False
        self.has_heard = True
        self.is_closed = False

    def next_deadline(self) -> float:
        return 0.0 if self.pids or self.has_overflowed else inf

    def take(self, _now: float, _known: Container[int], *, everything: bool = False) -> set[int]:  # noqa: ARG002
        taken, self.pids = self.pids, set()
        return taken

    def close(self) -> None:
        self.is_closed = True


def watching(events: ProcEvents | None, *, scan_interval: float = SCAN_SECONDS) -> Lookout:
    found = Lookout(
        definitions([PROGRAM]), (), OwnMetrics(), scan_interval=scan_interval, rescan_interval=10.0, events=events
    )
    assert found.look({}, LATER) is not None
    return found


@contextmanager
def program(folder: Path, name: str = NAME) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program of that name; each line on its stdin is a command that it executes."""
    path = folder / name
    if not path.exists():
        shutil.copy("/bin/dash", path)
    # Not by us: our own children are nobody's targets.
    script = f"trap '' HUP; while read line; do eval \"exec $line\"; done; : {path}"
    with subprocess.Popen([path, "-c", script], stdin=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 30
            while (found := read_process(process.pid)) is None or found.comm != name:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            yield process
        finally:
            process.kill()
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture(autouse=True)
def _we_are_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What we fork would be nobody's target."""
    monkeypatch.setattr(os, "getpid", lambda: 900_000_001)


def test_process_that_was_told_of_is_a_target_at_once(tmp_path: Path) -> None:
    events = Told()
    watched = watching(events)
    with program(tmp_path) as started:
        assert watched.look({}, LATER + 1) is None
        events.pids = {started.pid}
        assert watched.next_deadline() == 0.0

        assert watched.look({}, LATER + 1) is not None
        assert set(watched.desired) == {Slot("calls", started.pid)}


def test_process_that_nobody_told_of_is_a_target_after_the_scan_interval(tmp_path: Path) -> None:
    watched = watching(Told())
    with program(tmp_path) as started:
        assert watched.next_deadline() == LATER + SCAN_SECONDS

        assert watched.look({}, LATER + SCAN_SECONDS) is not None
        assert set(watched.desired) == {Slot("calls", started.pid)}


def test_target_that_has_ended_is_not_wanted_again_when_its_entry_is_gone(tmp_path: Path) -> None:
    """A look between two passes reads only those of whom it was told."""
    events = Told()
    watched = watching(events)
    with program(tmp_path) as ended, program(tmp_path) as other:
        events.pids = {ended.pid}
        watched.look({}, LATER + 1)
        (target,) = watched.desired.values()
        entry = Entry(target, PROGRAM, pidfd=-1, discovered=LATER, exited=True)
        ended.kill()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        watched.forget_exited({target.slot: entry})
        assert not watched.desired

        events.pids = {other.pid}
        assert watched.look({}, LATER + 2) is not None
        assert set(watched.desired) == {Slot("calls", other.pid)}


def test_of_unwanted_names_nothing_but_the_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Told()
    watched = watching(events)
    read: list[int] = []

    def note(pid: int) -> Process | None:
        read.append(pid)
        return read_process(pid)

    monkeypatch.setattr(processes, "read_process", note)
    with program(tmp_path, "other") as other, program(tmp_path) as wanted:
        events.pids = {other.pid}
        assert watched.look({}, LATER) is None
        assert read == []

        events.pids = {other.pid, wanted.pid}
        assert watched.look({}, LATER) is not None
        assert set(read) == {other.pid, wanted.pid}


@pytest.mark.parametrize(
    ("events", "has_overflowed", "scan_interval", "passes"),
    [
        pytest.param(None, False, SCAN_SECONDS, 1, id="no events"),
        pytest.param(Told(), True, 0.001, 1, id="events lost"),
        pytest.param(Told(), False, SCAN_SECONDS, REREAD_SECONDS / SCAN_SECONDS + 1, id="events"),
    ],
)
def test_exec_of_which_nobody_told_is_found_all_the_same(
    tmp_path: Path, events: Told | None, has_overflowed: bool, scan_interval: float, passes: float
) -> None:
    with program(tmp_path, "other") as started:
        (tmp_path / NAME).symlink_to(tmp_path / "other")
        watched = watching(events, scan_interval=scan_interval)
        assert watched.desired == {}
        if events is not None:
            events.has_overflowed = has_overflowed
        assert started.stdin is not None
        started.stdin.write(f"{tmp_path / NAME} -c 'read line'\n".encode())
        started.stdin.flush()
        while (found := read_process(started.pid)) is not None and found.comm != NAME:
            time.sleep(0.001)

        for number in range(1, int(passes) + 1):
            assert watched.desired == {}
            watched.look({}, LATER + number * scan_interval)
            if watched.desired:
                break
        assert set(watched.desired) == {Slot("calls", started.pid)}


def test_overflow_makes_a_look_at_everybody_due_at_once_but_not_more_often_than_passes(tmp_path: Path) -> None:
    events = Told()
    watched = watching(events)
    with program(tmp_path) as started:
        events.has_overflowed = True
        assert watched.look({}, LATER + 1) is None
        assert watched.next_deadline() <= LATER + 1
        watched.look({}, LATER + 1)
        assert set(watched.desired) == {Slot("calls", started.pid)}
        assert not events.has_overflowed

        events.has_overflowed = True
        watched.look({}, LATER + 2)
        events.has_overflowed, events.pids = False, set()
        assert watched.next_deadline() == LATER + 1 + SCAN_SECONDS


def test_events_that_have_ceased_are_given_up(tmp_path: Path) -> None:
    events = Told()
    watched = watching(events)
    with structlog.testing.capture_logs() as log, program(tmp_path):
        events.has_heard = False
        watched.look({}, LATER + SCAN_SECONDS)
        assert not events.is_closed, "a process that is so young need not have been told of"

    with program(tmp_path), structlog.testing.capture_logs() as log:
        time.sleep(1.2)  # it is its age that tells
        events.has_heard = False
        watched.look({}, LATER + 2 * SCAN_SECONDS)

    assert events.is_closed
    assert [line["log_level"] for line in log] == ["info"]


def test_events_go_with_the_lookout() -> None:
    events = Told()
    watched = watching(events)
    watched.close()
    watched.close()

    assert events.is_closed
    assert watched.next_deadline() == LATER + SCAN_SECONDS


def test_where_processes_cannot_be_read_everybody_is_looked_at_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Told()
    watched = watching(events)

    def fail(_pid: int) -> str:
        raise OSError(24, "Too many open files")

    with program(tmp_path) as started, structlog.testing.capture_logs() as log:
        with monkeypatch.context() as patch:
            patch.setattr(lookout, "read_comm", fail)
            events.pids = {started.pid}
            assert watched.look({}, LATER) is None
        assert [line["error"] for line in log] == ["[Errno 24] Too many open files"]
        watched.look({}, LATER + 1)
        watched.look({}, LATER + 1)
        assert set(watched.desired) == {Slot("calls", started.pid)}
