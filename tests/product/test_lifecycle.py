"""Targets come, execute other programs, rename themselves and go; the exporter follows, and its numbers stay exact."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.product.commanded import PROGRAM, commanded, launched, named_python
from tests.product.exporter import Exporter, exporter, start, until
from tests.product.faults import descriptors_at_rest
from tests.product.lifecycle import (
    GRACE_SECONDS,
    QUICK,
    attachments,
    counted,
    files_of,
    is_enabled,
    is_stopped,
    links,
    only_worker,
    series_of,
    state,
    wait_attachments,
    wait_detached,
    wait_gone,
)
from tests.product.programs import PYTHON, gc_config

pytestmark = pytest.mark.bpf

NAME = f"life-{os.getpid()}"  # a comm that nobody else on this machine has
OTHER_NAME = f"other-{os.getpid()}"
ATTACH_SECONDS = 45.0  # on a busy machine; what it takes is in the recorded properties

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def running() -> Iterator[Exporter]:
    """An exporter that has built its image, and is unharmed in the end."""
    with built_exporter() as running:
        yield running


@pytest.fixture(scope="module")
def running_by_perf_events() -> Iterator[Exporter]:
    """The same, without UPROBE_MULTI."""
    with built_exporter(USERSPACE_EXPORTER_ATTACH="perf") as running:
        yield running


@contextlib.contextmanager
def built_exporter(**environment: str) -> Iterator[Exporter]:
    with exporter(gc_config(binary_name=NAME), *QUICK, environment=environment) as running:
        with commanded(NAME) as target:
            running.wait_attached("gc_total", target.pid)
        wait_gone(running, target.pid)
        yield running
        assert "Traceback" not in running.log, running.log
        assert running.process.poll() is None, running.log


def wait_enabled(running: Exporter, pid: int, since: float, record: Record) -> None:
    """Wait until the program is enabled for that pid, in time."""
    running.wait_attached("gc_total", pid)
    seconds = time.monotonic() - since
    record("seconds_to_attach", round(seconds, 3))
    assert seconds < ATTACH_SECONDS


def test_a_new_binary_is_attached_after_its_build(record_property: Record) -> None:
    with exporter(gc_config(binary_name=NAME), *QUICK) as running:
        begin = time.monotonic()
        with commanded(NAME) as target:
            wait_enabled(running, target.pid, begin, record_property)
            before = target.do("collect", 0)
            after = target.do("collect", 7)

            assert counted(running, target.pid) == after - before == 7


def test_a_program_started_later_is_attached_in_time(running: Exporter, record_property: Record) -> None:
    begin = time.monotonic()
    with commanded(NAME) as target:
        wait_enabled(running, target.pid, begin, record_property)
        target.do("collect", 7)

        assert counted(running, target.pid) == 7


def test_a_restarted_program_is_attached_again_and_counts_from_zero(running: Exporter, record_property: Record) -> None:
    with commanded(NAME) as before:
        running.wait_attached("gc_total", before.pid)
        before.exit_after(40)
    begin = time.monotonic()
    with commanded(NAME) as after:
        wait_enabled(running, after.pid, begin, record_property)
        after.do("collect", 3)

        assert counted(running, after.pid) == 3


@pytest.mark.parametrize("wrapper", [NAME, OTHER_NAME], ids=["same_comm", "other_comm"])
def test_a_wrapper_script_that_executes_the_program_in_the_end_is_attached(
    running: Exporter, tmp_path: Path, wrapper: str, record_property: Record
) -> None:
    script = tmp_path / wrapper
    with named_python(NAME) as python:
        script.write_text(f'#!/bin/sh\nread ignored\nexec "{python}" "{PROGRAM}"\n')
        script.chmod(0o755)
        with launched([str(script)]) as target:
            if wrapper == NAME:
                until(lambda: f"pid={target.pid} reason=probe_not_found" in running.log, "the script was tried")
            begin = time.monotonic()
            target.execute()
            wait_enabled(running, target.pid, begin, record_property)
            before = counted(running, target.pid) or 0  # Python itself collects while it starts
            target.do("collect", 7)

            assert counted(running, target.pid) == before + 7


@pytest.mark.parametrize("how", ["running", "running_by_perf_events"], ids=["uprobe_multi", "perf_event"])
@pytest.mark.parametrize("command", ["execute", "execute_in_thread"])
def test_a_program_that_executes_itself_again_counts_on_and_nothing_twice(
    command: str, how: str, request: pytest.FixtureRequest, record_property: Record
) -> None:
    running: Exporter = request.getfixturevalue(how)
    with commanded(NAME) as target:
        running.wait_attached("gc_total", target.pid)
        old_links, old_descriptors = links(running.process.pid), descriptors_at_rest(running.process.pid)
        target.do("collect", 50)
        begin = time.monotonic()
        own_count = target.execute(command)
        wait_attachments(running, target.pid, 2)
        record_property("seconds_to_attach", round(time.monotonic() - begin, 3))
        before = counted(running, target.pid)
        target.do("collect", 9)

        assert before is not None
        assert 50 <= before <= 50 + own_count  # what it collects before it takes commands may or may not be seen
        assert counted(running, target.pid) == before + 9
        assert not links(running.process.pid) & old_links
        assert descriptors_at_rest(running.process.pid) == old_descriptors


def test_a_program_that_executes_another_one_is_let_go_after_the_grace(running: Exporter) -> None:
    with commanded(NAME) as target:
        running.wait_attached("gc_total", target.pid)
        target.do("collect", 21)
        target.send("execute", ["/bin/sleep", "1000"])
        wait_detached(running, target.pid)

        assert counted(running, target.pid) == 21
        assert not is_enabled(running, target.pid)
        wait_gone(running, target.pid)
        assert not links(running.process.pid)


def test_what_was_counted_before_an_exec_is_exact_though_the_program_exits_during_the_next_build(
    running: Exporter, tmp_path: Path
) -> None:
    """The links are gone by then, and so is the process: there is nothing left but the maps."""
    other_binary = tmp_path / NAME
    shutil.copy(PYTHON, other_binary)
    with commanded(NAME) as target:
        running.wait_attached("gc_total", target.pid)
        target.do("collect", 33)
        target.execute(argv=[str(other_binary), str(PROGRAM)])
        until(lambda: running.children("exporter-build"), "the other binary is built for")
        target.exit_after(0)

        wait_detached(running, target.pid)
        assert (counted(running, target.pid) or 0) >= 33
        assert "last values lost" not in running.log
        wait_gone(running, target.pid)


def leave_worker(running: Exporter, worker: int) -> None:
    """Let the worker be."""


def kill_worker(running: Exporter, worker: int) -> None:
    """Kill the worker; the supervisor, stopped, learns of it together with the target's end."""
    os.kill(worker, signal.SIGKILL)


def stop_worker(running: Exporter, worker: int) -> None:
    """Stop the worker, so that it does nothing that it is asked for."""
    os.kill(worker, signal.SIGSTOP)
    until(lambda: is_stopped(worker), "worker is stopped")


@pytest.mark.parametrize("harm", [leave_worker, kill_worker, stop_worker])
def test_the_last_values_of_a_program_that_exits_are_exact(
    running: Exporter, harm: Callable[[Exporter, int], None], record_property: Record
) -> None:
    with commanded(NAME) as target:
        running.wait_attached("gc_total", target.pid)
        target.do("collect", 5)
        assert counted(running, target.pid) == 5
        worker = only_worker(running)
        os.kill(running.process.pid, signal.SIGSTOP)
        try:
            harm(running, worker)
            target.exit_after(17)
        finally:
            os.kill(running.process.pid, signal.SIGCONT)
        begin = time.monotonic()
        until(lambda: counted(running, target.pid) == 22, f"all 22 are shown; log:\n{running.log}")
        record_property("seconds_to_last_values", round(time.monotonic() - begin, 3))
        wait_gone(running, target.pid)


def test_series_and_files_of_a_program_that_exited_go_after_the_grace_and_not_before(
    running: Exporter, record_property: Record
) -> None:
    with commanded(NAME) as target:
        running.wait_attached("gc_total", target.pid)
        begin = time.monotonic()
        target.exit_after(4)
        wait_detached(running, target.pid)

        while (value := counted(running, target.pid)) is not None:
            assert value == 4
            assert time.monotonic() - begin < 60
        seconds = time.monotonic() - begin
        record_property("seconds_shown", round(seconds, 3))
        assert seconds > GRACE_SECONDS
        assert series_of(running, target.pid) == []
        until(lambda: not files_of(running, target.pid), "files are gone")


def test_a_program_that_exits_is_not_counted_as_missed(running: Exporter) -> None:
    before = running.total("targets_missed_total")
    with commanded(NAME) as target:
        running.wait_attached("gc_total", target.pid)
    wait_gone(running, target.pid)

    assert running.total("targets_missed_total") == before


def test_a_leader_that_exits_while_threads_live_is_told_as_a_state_and_nothing_breaks(running: Exporter) -> None:
    with commanded(NAME) as target:
        running.wait_attached("gc_total", target.pid)
        target.do("collect", 6)
        target.send("lose_first_thread")
        target.settle()
        until(lambda: state(running, "leader_exited") == 1, "state leader_exited")
        own_count = target.do("collect", 10)

        shown = counted(running, target.pid)
        assert shown is not None
        assert 6 <= shown <= own_count
        target.exit_after(0)
        wait_gone(running, target.pid)
        assert state(running, "leader_exited") == 0


def test_a_process_whose_leader_had_exited_before_is_told_as_a_state(running: Exporter) -> None:
    with commanded(OTHER_NAME) as target:
        target.do("rename", NAME)
        target.send("lose_first_thread")
        target.settle()

        until(lambda: state(running, "leader_exited") == 1, "state leader_exited")
        assert not is_enabled(running, target.pid)
    until(lambda: state(running, "leader_exited") == 0, "state forgotten")


def test_a_program_that_takes_a_matching_name_is_attached(running: Exporter, record_property: Record) -> None:
    with commanded(OTHER_NAME) as target:
        begin = time.monotonic()
        target.do("rename", NAME)
        wait_enabled(running, target.pid, begin, record_property)
        target.do("collect", 7)

        assert counted(running, target.pid) == 7


def test_a_program_that_takes_a_name_that_does_not_match_is_let_go_after_the_grace(running: Exporter) -> None:
    with commanded(NAME) as target:
        running.wait_attached("gc_total", target.pid)
        target.do("collect", 7)
        target.do("rename", OTHER_NAME)
        wait_detached(running, target.pid)
        target.do("collect", 100)

        assert counted(running, target.pid) == 7
        wait_gone(running, target.pid)
        assert attachments(running, target.pid) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_an_exporter_started_again_attaches_again_and_counts_from_zero(
    number: signal.Signals, record_property: Record
) -> None:
    with commanded(NAME) as target, exporter(gc_config(binary_name=NAME), *QUICK) as before:
        before.wait_attached("gc_total", target.pid)
        target.do("collect", 30)
        assert counted(before, target.pid) == 30
        before.stop(number)
        target.do("collect", 1000)
        begin = time.monotonic()
        after = start(before.folder, before.config, *QUICK)
        try:
            after.wait_ready()
            wait_enabled(after, target.pid, begin, record_property)
            target.do("collect", 4)

            assert counted(after, target.pid) == 4
        finally:
            after.stop()
