"""Which processes are targets. The table is made by hand; exec marks are those of real processes."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.matching import definitions, desired_targets, matches
from ebpf_userspace_exporter.supervisor.processes import Process
from ebpf_userspace_exporter.supervisor.targets import Slot

ME = os.getpid()
SUPERVISOR = 900_000_001  # beyond every real pid, as all others that need no exec mark


def process(pid: int, *, comm: str = "redis-server", ppid: int = 1, state: str = "S", threads: int = 1) -> Process:
    return Process(pid, ppid, comm, state, threads, start_ticks=77, start_stack=5, arg_start=6)


def program(name: str = "malloc", *, binary_name: str = "redis-server", code: str = "") -> Program:
    return Program(name=name, attachment=Selector(binary_name=(binary_name,)), code=code)


def look(*processes: Process, programs: tuple[Program, ...] = (program(),)) -> tuple[set[Slot], set[Slot]]:
    """Return the slots of targets, and of those whose leader has exited."""
    table = {each.pid: each for each in processes}
    targets, leaderless, _ = desired_targets(definitions(programs), table, SUPERVISOR)
    return set(targets), leaderless


@pytest.fixture
def zombie() -> Iterator[int]:
    with subprocess.Popen(["/bin/true"]) as started:
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        yield started.pid


@pytest.mark.parametrize(
    ("binary_name", "comm", "expected"),
    [
        pytest.param("redis-server", "redis-server", True, id="same"),
        pytest.param("redis", "redis-server", False, id="prefix"),
        pytest.param("redis-server", "redis", False, id="longer"),
        pytest.param("ebpf-userspace-exporter", "ebpf-userspace-", True, id="cut by the kernel"),
        pytest.param("Redis-server", "redis-server", False, id="case"),
    ],
)
def test_program_matches_by_the_name_that_the_kernel_keeps(binary_name: str, comm: str, expected: bool) -> None:
    assert matches(Selector(binary_name=(binary_name,)), process(1, comm=comm)) is expected


def test_every_program_has_a_target_on_every_process_that_matches() -> None:
    programs = (program("a"), program("b"), program("c", binary_name="nginx"))

    assert look(process(ME), programs=programs) == ({Slot("a", ME), Slot("b", ME)}, set())


def test_target_carries_what_tells_it_from_others() -> None:
    [definition] = definitions([program()]).values()
    targets, _, _ = desired_targets({"malloc": definition}, {ME: process(ME)}, SUPERVISOR)
    [found] = targets.values()
    executable = os.stat("/proc/self/exe")  # noqa: PTH116 - what is asked for

    assert found.definition == definition.digest
    assert found.start_ticks == 77
    assert (found.exec_mark.start_stack, found.exec_mark.arg_start) == (5, 6)
    assert (found.exec_mark.exe_device, found.exec_mark.exe_inode) == (executable.st_dev, executable.st_ino)


def test_changed_program_has_another_digest() -> None:
    before, after = (definitions([program(code=code)])["malloc"].digest for code in ("int x;", "int y;"))

    assert before != after
    assert definitions([program(code="int x;")])["malloc"].digest == before


def test_the_supervisor_and_what_it_has_forked_are_never_targets() -> None:
    child = process(SUPERVISOR + 1, ppid=SUPERVISOR, comm="gunicorn")

    assert look(process(SUPERVISOR), child, process(ME, ppid=child.pid)) == (set(), set())


def test_dead_process_is_no_target(zombie: int) -> None:
    assert look(process(zombie, state="Z")) == (set(), set())


def test_process_that_cannot_be_told_from_others_is_no_new_target_and_said_to_be_so(zombie: int) -> None:
    """Its executable cannot be seen: as here when it has ended, or in the midst of an exec."""
    targets, leaderless, unreadable = desired_targets(definitions([program()]), {zombie: process(zombie)}, SUPERVISOR)

    assert (targets, leaderless, unreadable) == ({}, set(), {Slot("malloc", zombie)})


def test_process_whose_first_thread_has_exited_is_told_apart() -> None:
    assert look(process(ME, state="Z", threads=3)) == (set(), {Slot("malloc", ME)})


def test_parents_in_a_circle_end_the_search() -> None:
    """A table that was read while pids were reused can hold that."""
    first, second = process(ME, ppid=SUPERVISOR + 1), process(SUPERVISOR + 1, ppid=ME, comm="x")

    assert look(first, second) == ({Slot("malloc", ME)}, set())
