"""New targets are found at once where the kernel tells of them, and soon where it does not."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.product.commanded import PROGRAM, Commanded, commanded, launched, named_python
from tests.product.exporter import Exporter, exporter, until
from tests.product.lifecycle import attachments, counted, state, wait_attachments
from tests.product.programs import gc_config

pytestmark = pytest.mark.bpf

NAME = "discovered"
SCAN_SECONDS = 30.0
SOON_SECONDS = 2.0  # of a few hundredths on a quiet machine
NO_EVENTS = "no process events"


@pytest.fixture(scope="module")
def running() -> Iterator[Exporter]:
    """An exporter that has built its program, and passes over all processes seldom."""
    with exporter(gc_config(binary_name=NAME), "--scan-interval", f"{SCAN_SECONDS:.0f}s") as started:
        if NO_EVENTS in started.log:
            pytest.skip("the kernel sends no process events here")
        with commanded(NAME) as first:
            wait_attachments(started, first.pid, 1)
        yield started


def soon(running: Exporter, condition: Callable[[], bool]) -> None:
    until(condition, f"at once; log:\n{running.log}", seconds=SOON_SECONDS)


def test_exec_is_noticed_without_waiting_for_a_pass(running: Exporter) -> None:
    with named_python(NAME) as python, launched([python, str(PROGRAM)]) as target:
        target.settle()
        soon(running, lambda: attachments(running, target.pid) == 1)
        before = counted(running, target.pid) or 0  # Python itself collects while it starts
        target.do("collect", 7)

        assert counted(running, target.pid) == before + 7


def test_exec_of_a_process_that_is_known_is_noticed(running: Exporter) -> None:
    with named_python(NAME) as python, commanded("another") as target:
        target.execute(argv=[python, str(PROGRAM)])
        soon(running, lambda: attachments(running, target.pid) == 1)


def test_exec_by_another_thread_is_noticed(running: Exporter) -> None:
    """The links that there are count nothing from then on, and nothing else tells."""
    with commanded(NAME) as target:
        soon(running, lambda: attachments(running, target.pid) == 1)
        target.execute("execute_in_thread")
        soon(running, lambda: attachments(running, target.pid) == 2)
        before = counted(running, target.pid) or 0
        target.do("collect", 5)

        assert counted(running, target.pid) == before + 5


def test_new_name_is_noticed(running: Exporter) -> None:
    with commanded("nameless") as target:
        target.do("rename", NAME)
        soon(running, lambda: attachments(running, target.pid) == 1)
        target.do("rename", "nameless")
        soon(running, lambda: f"msg=detached program=gc_total pid={target.pid} " in running.log)


def test_fork_that_executes_nothing_is_noticed(running: Exporter) -> None:
    with commanded(NAME) as target:
        child = target.do("fork", NAME)
        soon(running, lambda: attachments(running, child) == 1)


def test_first_thread_that_exits_is_noticed_by_the_next_pass() -> None:
    with exporter(gc_config(binary_name=NAME)) as running, commanded(NAME) as target:
        running.wait_attached("gc_total", target.pid)
        target.send("lose_first_thread")
        target.settle()
        until(lambda: state(running, "leader_exited") == 1, "state leader_exited")


def live(seconds: float) -> None:
    with commanded(NAME) as target:
        time.sleep(seconds)
        target.exit_after(0)


def test_whoever_lives_for_half_a_second_is_attached_or_counted_as_missed(running: Exporter) -> None:
    attached, missed = running.log.count("msg=attached"), running.total("targets_missed_total")
    with contextlib.ExitStack() as storm:
        load = storm.enter_context(subprocess.Popen(["sh", "-c", "while :; do /bin/true; done"]))
        storm.callback(load.kill)
        for _ in range(10):
            live(0.5)

    def seen() -> int:
        return running.log.count("msg=attached") - attached + int(running.total("targets_missed_total") - missed)

    until(lambda: seen() == 10, f"all ten; log:\n{running.log}", seconds=SOON_SECONDS)


def test_a_storm_of_targets_leaves_no_descriptor_and_every_one_is_told(running: Exporter) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{running.process.pid}/fd"))

    until(lambda: running.total("targets") == running.total("targets", state="exited"), "rest")
    before = descriptors()
    with contextlib.ExitStack() as targets:
        pids = [targets.enter_context(commanded(NAME)).pid for _ in range(10)]
        until(lambda: all(attachments(running, pid) == 1 for pid in pids), f"ten attached; log:\n{running.log}")

    until(lambda: descriptors() == before, f"{before} descriptors, not {descriptors()}")


@pytest.mark.parametrize(
    ("through", "environment"),
    [
        pytest.param((), {"USERSPACE_EXPORTER_EVENTS": "off"}, id="turned off"),
        pytest.param(("unshare", "--pid", "--fork", "--kill-child"), {}, id="PID namespace"),
    ],
)
def test_where_no_events_come_a_pass_finds_all(through: tuple[str, ...], environment: dict[str, str]) -> None:
    mounted = (*through, "--mount-proc") if through else ()
    config = gc_config(binary_name=NAME)
    with exporter(config, "--scan-interval", "200ms", environment=environment, through=mounted) as running:
        assert running.log.count(NO_EVENTS) == 1
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(_beside(running) if through else commanded(NAME))
            wait_attachments(running, target.pid, 1)
            target.execute()
            wait_attachments(running, target.pid, 2)
        if through:
            [init] = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
            os.kill(int(init), 15)  # unshare itself takes no signal
            running.process.wait(20)


@contextlib.contextmanager
def _beside(running: Exporter) -> Iterator[Commanded]:
    """Run a target in the exporter's PID namespace."""
    [init] = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    enter = ("nsenter", f"--target={init}", "--pid", "--mount")
    with named_python(NAME) as python, launched([*enter, python, str(PROGRAM)]) as target:
        target.settle()
        yield target
