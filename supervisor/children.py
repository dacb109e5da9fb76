"""Forking: each child holds what it is given and nothing else, and does not outlive us."""

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Collection
from typing import NoReturn

import structlog

from ebpf_userspace_exporter.worker.kernel import set_parent_death_signal, set_process_name

logger = structlog.get_logger()

EXIT_SOFTWARE = 70  # sysexits.h: an error of ours, with its traceback in the log
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def spawn(name: str, run: Callable[[], None], *, keep: Collection[int]) -> int:
    """Fork a child that calls `run` and exits; return its pid.

    The child has the standard streams and the descriptors in `keep`, default signals and its own process group (a
    terminal's Ctrl-C is for the supervisor alone), and is killed when this process dies.
    """
    parent = os.getpid()
    # Until the child has its own handlers, what is sent to it would be told to the supervisor, as sent to that.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        pid = os.fork()
        if pid == 0:
            live(name, parent, run, keep, has_handlers=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def live(
    name: str, parent: int, run: Callable[[], None], keep: Collection[int], *, has_handlers: bool = False
) -> NoReturn:
    """In a child of `parent`'s that was just forked: do what `spawn` says, then exit; signals as they are by default.

    Unless it `has_handlers`: then they are made so.
    """
    status = EXIT_SOFTWARE
    try:
        if has_handlers:
            _forget_handlers()
        _settle(name, parent, keep)
        run()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else EXIT_SOFTWARE
    except BaseException:
        logger.exception("child failed", child=name)
    finally:
        os._exit(status)


def _settle(name: str, parent: int, keep: Collection[int]) -> None:
    """In the child: become independent of everything the supervisor has, but for its life."""
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_SOFTWARE)  # it died before the line above
    os.setpgid(0, 0)
    set_process_name(name)  # for whoever reads ps or top
    close_all_but(keep)


def _forget_handlers() -> None:
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # For it and its children: a core file would hold what was read from the target.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor but the standard streams and those in `keep`."""
    low = 3
    for descriptor in sorted(keep):
        os.closerange(low, descriptor)
        low = max(low, descriptor + 1)
    os.closerange(low, 1 << 30)


def reap() -> dict[int, int]:
    """Collect every child that has exited, orphans that became ours as PID 1 included; return {pid: exit code}.

    An exit code below 0 is the negated signal.
    """
    statuses: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return statuses
        if pid == 0:
            return statuses
        statuses[pid] = os.waitstatus_to_exitcode(status)


def describe_exit(exit_code: int) -> str:
    """Return how a child ended, in words: `exit code 70`, `SIGKILL`."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"  # one of the real-time signals


def terminate(pid: int) -> None:
    """Ask a child to end; it will, when no call of the kernel's can suffer by it (worker.kernel.uninterrupted)."""
    os.kill(pid, signal.SIGTERM)


def kill(pid: int) -> None:
    """Kill a child that has not been reaped yet, and what it has started: a builder may run tar."""
    with contextlib.suppress(ProcessLookupError):  # it has not made its group yet
        os.killpg(pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
