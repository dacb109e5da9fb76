"""What targets, their children and many short lives leave in the system and in the exporter: nothing."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.product.commanded import Commanded, commanded
from tests.product.exporter import Exporter, comm, exporter, until
from tests.product.faults import descendants, descriptors_at_rest
from tests.product.lifecycle import QUICK, counted, patched_probes, wait_gone
from tests.product.programs import gc_config
from tests.product.semaphores import raised_semaphores

pytestmark = pytest.mark.bpf

NAME = f"left-{os.getpid()}"
OTHER_NAME = f"fork-{os.getpid()}"
SEMAPHORE = {"python:gc__start": 1}


def fork_unseen(running: Exporter, target: Commanded) -> int:
    """Return the pid of a child of the target, forked and named while the supervisor is stopped; it stays stopped."""
    os.kill(running.process.pid, signal.SIGSTOP)
    child: int = target.do("fork", OTHER_NAME)
    until(lambda: comm(child) == OTHER_NAME, "the child has its name")
    return child


def wait_healed(pid: int) -> None:
    """Wait until no probe is in force in the process."""
    until(lambda: patched_probes(pid) == 0, "no breakpoint is left")
    until(lambda: not raised_semaphores(pid), "no semaphore is raised")


def test_forked_children_that_are_no_targets_are_healed_and_never_counted() -> None:
    with exporter(gc_config(binary_name=NAME), *QUICK) as running, commanded(NAME) as target:
        running.wait_attached("gc_total", target.pid)
        target.do("collect", 10)
        probed = patched_probes(target.pid)
        assert raised_semaphores(target.pid) == SEMAPHORE
        for _ in range(2):
            child = fork_unseen(running, target)
            assert patched_probes(child) == probed > 0
            assert raised_semaphores(child) == SEMAPHORE
            target.do("child_collects", child, 100)
            os.kill(running.process.pid, signal.SIGCONT)
            wait_healed(child)
            # When it closes its link, the kernel looks at all who map the file: at the next child too.
            until(lambda: not running.children("exporter-healer"), "the healer has left")
            target.do("child_collects", child, 100)
        target.do("collect", 5)

        assert patched_probes(target.pid) == probed
        assert raised_semaphores(target.pid) == SEMAPHORE
        assert counted(running, target.pid) == 15
        assert not running.values("gc_total", pid=child)


def test_nothing_is_left_in_a_target_when_the_exporter_has_stopped() -> None:
    with commanded(NAME) as target:
        with exporter(gc_config(binary_name=NAME), *QUICK) as running:
            running.wait_attached("gc_total", target.pid)
            assert patched_probes(target.pid) > 0
            assert running.stop() == 0

        assert patched_probes(target.pid) == 0
        assert raised_semaphores(target.pid) == {}


def live(seconds: float) -> None:
    """Run a target that collects now and then and is gone after so long."""
    with commanded(NAME) as target:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            target.do("collect", 10)
            time.sleep(0.05)


def belongings(running: Exporter) -> tuple[Counter[str], Counter[str], list[str]]:
    """Return the supervisor's descriptors by kind, its descendants by name, and the files in its state directory."""
    names = Counter(comm(pid) for pid in descendants(running.process.pid))
    files = sorted(path.name for path in running.state_dir.rglob("*") if "headers" not in path.parts)
    return descriptors_at_rest(running.process.pid), names, files


def test_forty_short_lives_leave_no_descriptor_process_or_file(record_property: Callable[[str, object], None]) -> None:
    """In each of eight rounds, five targets live side by side for 0.3 to 2 s."""
    with exporter(gc_config(binary_name=NAME), *QUICK, "--scan-interval", "200ms") as running:
        with commanded(NAME) as first:
            running.wait_attached("gc_total", first.pid)
        wait_gone(running, first.pid)
        before = belongings(running)
        for round_number in range(8):
            threads = [
                threading.Thread(target=live, args=(0.3 + (round_number + part) % 5 * 0.425,)) for part in range(5)
            ]
            with contextlib.ExitStack() as joins:
                for thread in threads:
                    thread.start()
                    joins.callback(thread.join)
            running.scrape()

        until(lambda: not running.values("gc_total"), "no series")
        try:
            until(lambda: belongings(running) == before, "as before")
        except AssertionError as error:
            raise AssertionError(f"{error}: {before} became {belongings(running)}; log:\n{running.log}") from None
        record_property("attached", running.log.count("msg=attached"))
        record_property("missed", running.total("targets_missed_total"))
        assert running.total("worker_restarts_total") == 0
        assert "Traceback" not in running.log, running.log
