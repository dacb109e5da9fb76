"""What a forked child has, and when it ends. Children report over a pipe, and are looked at in /proc."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import structlog

from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.log import configure

_PR_SET_CHILD_SUBREAPER = 36
DEADLINE_SECONDS = 30.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def told(pipe: tuple[int, int], tell: Callable[[], object], *keep: int) -> object:
    """Return what `tell` returns in a child, which has the pipe and `keep`."""
    reading, writing = pipe
    pid = children.spawn("teller", lambda: _tell(writing, tell), keep=(writing, *keep))
    assert exit_code(pid) == 0
    return json.loads(os.read(reading, 1 << 16))


def _tell(writing: int, tell: Callable[[], object]) -> None:
    os.write(writing, json.dumps(tell()).encode())


def descriptors() -> list[int]:
    """Return the descriptors of this process, without the one that lists them."""
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    return sorted(number for number in found if os.path.exists(f"/proc/self/fd/{number}"))  # noqa: PTH110


def field(name: str) -> str:
    """Return a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    raise LookupError(name)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _sleep() -> None:
    """Do nothing, but not for ever: a test that fails should leave nobody."""
    time.sleep(DEADLINE_SECONDS)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# What it has


def test_child_holds_standard_streams_and_what_it_keeps(pipe: tuple[int, int]) -> None:
    others = [socket.socket() for _ in range(20)]
    kept = [others[3].fileno(), others[17].fileno()]
    for each in others:
        each.set_inheritable(True)
    try:
        assert told(pipe, descriptors, *kept) == sorted([0, 1, 2, pipe[1], *kept])
    finally:
        for each in others:
            each.close()


def test_descriptor_beyond_the_limit_is_closed_too(pipe: tuple[int, int]) -> None:
    """The limit may have been lowered after it was opened."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = os.open("/dev/null", os.O_RDONLY)
    try:
        os.dup2(high, 200)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        assert told(pipe, descriptors) == [0, 1, 2, pipe[1]]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(high)
        os.close(200)


def test_child_has_default_signals_whatever_the_supervisor_has(pipe: tuple[int, int]) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        found = told(pipe, lambda: [signal.getsignal(number) == signal.SIG_DFL for number in numbers])
        blocked = told(pipe, lambda: sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        ours.close()
        theirs.close()

    assert found == [True] * 4
    assert blocked == []


def test_signal_to_a_child_from_its_first_moment_ends_it_and_is_not_told_to_the_supervisor() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        for _ in range(30):
            newborn = children.spawn("newborn", lambda: time.sleep(DEADLINE_SECONDS), keep=())
            os.kill(newborn, signal.SIGTERM)
            assert exit_code(newborn) == -signal.SIGTERM
        with pytest.raises(BlockingIOError):
            ours.recv(1)
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGTERM, before)
        ours.close()
        theirs.close()


def test_mask_of_signals_is_as_before_whether_the_fork_succeeds_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    exit_code(children.spawn("ending", lambda: None, keep=()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        with pytest.raises(BlockingIOError):
            children.spawn("unborn", lambda: None, keep=())

    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_child_is_in_a_group_of_its_own(pipe: tuple[int, int]) -> None:
    assert told(pipe, lambda: os.getpgrp() == os.getpid()) is True


def test_child_has_its_name_and_dumps_no_core(pipe: tuple[int, int]) -> None:
    import resource

    assert told(pipe, lambda: [field("Name"), *resource.getrlimit(resource.RLIMIT_CORE)]) == ["teller", 0, 0]


# How it ends


def fail() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("run", "code"),
    [
        pytest.param(lambda: None, 0, id="returns"),
        pytest.param(lambda: sys.exit(3), 3, id="exits"),
        pytest.param(lambda: sys.exit("words"), children.EXIT_SOFTWARE, id="exits with words"),
        pytest.param(fail, children.EXIT_SOFTWARE, id="raises"),
        pytest.param(lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL, id="killed"),
    ],
)
def test_child_never_returns_and_its_end_is_its_exit_code(run: Callable[[], None], code: int) -> None:
    assert exit_code(children.spawn("ending", run, keep=())) == code


def test_exception_of_a_child_is_logged_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "logfmt")
    try:
        exit_code(children.spawn("failing", fail, keep=()))
    finally:
        structlog.reset_defaults()

    assert "ZeroDivisionError" in capfd.readouterr().err


def test_child_dies_with_its_parent(pipe: tuple[int, int]) -> None:
    reading, writing = pipe

    def be_parent() -> None:
        child = children.spawn("grandchild", _sleep, keep=())
        os.write(writing, b"%d\n" % child)
        _sleep()

    parent = children.spawn("parent", be_parent, keep=(writing,))
    grandchild = int(os.read(reading, 100))
    assert is_alive(grandchild)
    os.kill(parent, signal.SIGKILL)
    assert exit_code(parent) == -signal.SIGKILL
    until(lambda: not is_alive(grandchild))


def test_kill_ends_what_a_child_has_started_too(pipe: tuple[int, int]) -> None:
    """A builder runs tar, which nothing else would end."""
    reading, writing = pipe

    def start_another() -> None:
        started = subprocess.Popen(
            ["/bin/sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.write(writing, b"%d\n" % started.pid)
        _sleep()

    child = children.spawn("starter", start_another, keep=(writing,))
    grandchild = int(os.read(reading, 100))
    children.kill(child)
    assert exit_code(child) == -signal.SIGKILL
    until(lambda: not is_alive(grandchild))


def test_child_is_killed_from_its_first_moment() -> None:
    for _ in range(20):
        child = children.spawn("newborn", _sleep, keep=())
        children.kill(child)
        assert exit_code(child) == -signal.SIGKILL


# Reaping


def test_every_child_that_has_exited_is_reaped_with_its_exit_code_and_no_other() -> None:
    codes = {children.spawn("ending", partial(sys.exit, code), keep=()): code for code in (0, 5, 9)}
    killed = children.spawn("killed", _sleep, keep=())
    alive = children.spawn("alive", _sleep, keep=())
    children.kill(killed)
    codes[killed] = -signal.SIGKILL
    for pid in codes:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert {pid: code for pid, code in children.reap().items() if pid in codes} == codes
    assert children.reap() == {}
    children.kill(alive)
    assert exit_code(alive) == -signal.SIGKILL
    with pytest.raises(ChildProcessError):
        os.waitpid(alive, os.WNOHANG)


def test_orphans_that_became_ours_are_reaped() -> None:
    """As PID 1 of a container has it; here by asking for it."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        reading, writing = os.pipe()
        parent = children.spawn("parent", lambda: _leave_an_orphan(writing), keep=(writing,))
        assert exit_code(parent) == 0
        orphan = int(os.read(reading, 100))
        os.close(reading)
        os.close(writing)
        os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)

        assert children.reap()[orphan] == 42
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _leave_an_orphan(writing: int) -> None:
    parent = os.getpid()
    orphan = os.fork()
    if orphan == 0:
        while os.getppid() == parent:
            time.sleep(0.01)
        os._exit(42)
    os.write(writing, b"%d\n" % orphan)
