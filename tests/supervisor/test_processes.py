"""The process table against real processes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ebpf_userspace_exporter.supervisor import processes
from ebpf_userspace_exporter.supervisor.processes import (
    Process,
    ProcessTable,
    age_seconds,
    descendants,
    exec_mark,
    parse_stat,
    process_table,
    read_comm,
    read_process,
)

STAT = (
    b"S 7 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 3 0 4711 10 20 30 40 50 99 "
    b"0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 60 61 62 63 64 65 66 0"
)


@pytest.mark.parametrize(
    ("comm", "expected"),
    [
        pytest.param(b"redis-server", "redis-server", id="plain"),
        pytest.param(b"a) S 1 (b", "a) S 1 (b", id="parentheses"),
        pytest.param(b"two\\nlines", "two\nlines", id="newline"),
        pytest.param(b"back\\\\slash", "back\\slash", id="backslash"),
        pytest.param(b"\xff\xfe", "\udcff\udcfe", id="not UTF-8"),
        pytest.param(b"", "", id="empty"),
    ],
)
def test_name_in_stat_may_hold_anything(comm: bytes, expected: str) -> None:
    process = parse_stat(12, b"12 (" + comm + b") " + STAT + b"\n")

    assert process.comm == expected
    assert (process.ppid, process.threads, process.start_ticks) == (7, 3, 4711)
    assert (process.start_stack, process.arg_start) == (99, 63)


def test_table_holds_this_process_and_its_parent() -> None:
    table = process_table()

    assert table[os.getpid()].ppid == os.getppid()
    assert os.getppid() in table


def test_process_that_is_gone_is_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()

    assert read_process(child.pid) is None
    assert read_comm(child.pid) is None


def test_name_alone_is_the_one_in_the_table() -> None:
    with open("/proc/self/comm", "r+b", buffering=0) as comm:  # noqa: PTH123 - written as it is
        before = comm.read()
        try:
            for name in (b"a) S 1 (b", b"two\nlines", b"end\n", b"back\\slash", b"\xff\xfe"):
                comm.write(name)
                assert read_comm(os.getpid()) == process_table()[os.getpid()].comm == os.fsdecode(name)
        finally:
            comm.write(before.removesuffix(b"\n"))


@contextmanager
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            _until(lambda: read_comm(process.pid) == "sleep")
            yield process
        finally:
            process.kill()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whose stat is read."""
    noted: list[int] = []

    def note(pid: int) -> Process | None:
        noted.append(pid)
        return read_process(pid)

    monkeypatch.setattr(processes, "read_process", note)
    return noted


def test_renewed_table_has_who_has_come_and_not_who_has_gone(reads: list[int]) -> None:
    table = ProcessTable()
    with sleeper() as gone:
        table.renew(0)
        reads.clear()
        with sleeper() as come:
            assert come.pid in {process.pid for process in table.renew(0)}
            now = read_process(come.pid)
            assert now is not None
            assert table.processes[come.pid] == replace(
                now, state=table.processes[come.pid].state
            )  # it may be starting
            assert gone.pid in table.processes
            assert os.getpid() not in reads
    table.renew(0)

    assert not {come.pid, gone.pid} & table.processes.keys()


def test_every_process_is_read_again_in_turns(reads: list[int]) -> None:
    table = ProcessTable()
    table.renew(0)
    unread = set(table.processes)
    for turn in range(4):
        assert unread, f"all were read in {turn} turns"
        reads.clear()
        table.renew(0.25)
        unread -= set(reads)
        unread &= table.processes.keys()
    for _ in range(4):  # those that come meanwhile have their turns too
        table.renew(0.25)

    assert unread <= set(reads)


def test_whole_table_is_read_again_though_a_turn_has_begun(reads: list[int]) -> None:
    table = ProcessTable()
    table.renew(0)
    table.renew(0.5)
    reads.clear()
    table.renew(1)

    assert set(reads) >= table.processes.keys()


def test_orphan_is_read_again_at_once(reads: list[int]) -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        try:
            table = ProcessTable()
            table.renew(0)
            assert table.processes[orphan].ppid == parent.pid
            parent.kill()
            parent.wait()
            table.renew(0)
            assert table.processes[orphan].ppid not in (0, parent.pid)
        finally:
            os.kill(orphan, 9)


def test_reused_number_is_another_process_once_it_is_read() -> None:
    table = ProcessTable()
    table.renew(0)
    me = table.processes[os.getpid()]
    table.processes[me.pid] = replace(me, start_ticks=1)

    table.read([me.pid])

    assert table.processes[me.pid].start_ticks == me.start_ticks


def test_zombie_is_dead() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    process = read_process(child.pid)
    child.wait()

    assert process is not None
    assert process.is_dead
    assert not process.leader_exited


def test_exec_changes_the_mark_and_nothing_else() -> None:
    script = "import os, sys; sys.stdin.read(1); os.execv('/bin/sleep', ['sleep', '60'])"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        _until(lambda: (process := read_process(child.pid)) is not None and process.comm.startswith("python"))
        before = read_process(child.pid)
        assert child.stdin is not None
        child.stdin.write(b"x")
        child.stdin.flush()
        _until(lambda: (process := read_process(child.pid)) is not None and process.comm == "sleep")
        after = read_process(child.pid)
        assert before is not None
        assert after is not None
        assert (before.pid, before.start_ticks) == (after.pid, after.start_ticks)
        assert exec_mark(after) is not None
        assert (before.start_stack, before.arg_start) != (after.start_stack, after.arg_start)
    finally:
        child.kill()
        child.communicate()


def test_leader_that_exited_before_its_threads_is_told_from_a_dead_process() -> None:
    script = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).syscall(60 if ctypes.sizeof(ctypes.c_long) == 8 else 1, 0)\n"
    )
    if os.uname().machine != "x86_64":
        script = script.replace("60 if", "93 if")
    child = subprocess.Popen([sys.executable, "-c", script])
    try:
        _until(lambda: (process := read_process(child.pid)) is not None and process.state == "Z")
        process = read_process(child.pid)
        assert process is not None
        assert process.leader_exited
        assert not process.is_dead
    finally:
        child.kill()
        child.wait()


def test_descendants_are_found_through_any_number_of_parents() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        table = process_table()
        assert descendants(os.getpid(), table) >= {os.getpid(), child.pid, grandchild}
        assert descendants(grandchild, table) == {grandchild}
    finally:
        os.kill(grandchild, 9)
        child.communicate()


def test_parents_in_a_circle_end_the_search_for_descendants() -> None:
    """A table that was read while pids were reused can hold that."""
    first, second = (parse_stat(pid, b"%d (x) S %d" % (pid, ppid) + STAT[3:]) for pid, ppid in ((5, 6), (6, 5)))

    assert descendants(5, {5: first, 6: second}) == {5, 6}


def test_age_is_told_by_a_clock_that_nobody_sets() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    child = subprocess.Popen(["sleep", "60"])
    try:
        process = read_process(child.pid)
        assert process is not None
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert -0.02 < age_seconds(process, now) < now - before + 0.02  # ticks are of 10 ms
    finally:
        child.kill()
        child.wait()


def _until(condition: "object") -> None:
    deadline = time.monotonic() + 30
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        threading.Event().wait(0.01)
