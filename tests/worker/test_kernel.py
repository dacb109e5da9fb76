"""What the kernel is asked for by number takes effect."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.kernel import (
    Capability,
    effective_capabilities,
    set_no_new_privileges,
    set_parent_death_signal,
    system_call,
    uninterrupted,
)


def in_fork(function: Callable[[], str]) -> str:
    """Return what `function` returns in a forked process."""
    answer, answer_in = os.pipe()
    child = os.fork()
    if child == 0:
        words = "failed"
        try:
            words = function()
        finally:
            os.write(answer_in, words.encode())
            os._exit(0)
    os.close(answer_in)
    with os.fdopen(answer) as reader:
        words = reader.read()
    os.waitpid(child, 0)
    return words


def test_a_child_dies_when_its_parent_is_killed() -> None:
    """The grandchild alone holds the pipe in the end: end of file is its death."""
    alive, alive_in = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            if os.fork() == 0:
                set_parent_death_signal()
                os.write(alive_in, b".")
            signal.pause()
        finally:
            os._exit(0)
    os.close(alive_in)
    with os.fdopen(alive, "rb", buffering=0) as reader:
        assert reader.read(1) == b"."
        os.kill(middle, signal.SIGKILL)
        os.waitpid(middle, 0)

        assert reader.read(1) == b""


def test_no_new_privileges_are_gained_from_then_on() -> None:
    def read_status() -> str:
        set_no_new_privileges()
        return next(line for line in Path("/proc/self/status").read_text().splitlines() if "NoNewPrivs" in line)

    assert in_fork(read_status) == "NoNewPrivs:\t1"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have capabilities to give up")
def test_capabilities_are_those_in_effect() -> None:
    def names() -> str:
        os.setresuid(65534, 65534, 65534)
        return ",".join(capability.name for capability in effective_capabilities())

    mask = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    assert effective_capabilities() == {capability for capability in Capability if mask & 1 << capability}
    assert in_fork(names) == ""


def test_a_refused_system_call_raises_its_errno() -> None:
    with pytest.raises(OSError, match="Function not implemented") as caught:
        system_call(100_000)

    assert caught.value.errno == errno.ENOSYS


def test_sigterm_waits_until_what_must_not_be_interrupted_is_through() -> None:
    begun, begun_in = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGTERM)
                os.write(begun_in, b"still here")
            os.write(begun_in, b", and here")
        finally:
            os._exit(1)
    os.close(begun_in)
    with os.fdopen(begun) as reader:
        words = reader.read()

    assert words == "still here"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_parent_that_dies_meanwhile_ends_its_child_afterwards() -> None:
    """The grandchild holds the pipe, which says in the end how far it came."""
    told, told_in = os.pipe()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            with uninterrupted():
                os.kill(os.getppid(), signal.SIGKILL)
                while not signal.sigpending():
                    signal.sigtimedwait((), 0.01)
                os.write(told_in, b"the parent is dead")
            os.write(told_in, b", and nobody noticed")
            os._exit(1)
        signal.pause()
    os.close(told_in)
    os.waitpid(child, 0)

    with os.fdopen(told) as reader:
        assert reader.read() == "the parent is dead"
