"""Does what it is told: one JSON object a line on stdin is a command, one line on stdout the answer.

Runs by Debian's Python alone. Collects garbage when told to and only then, so its own count is exact. An argument is
the pid that it shall have, as its parent's child (see `take_number`).
"""

import ctypes
import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

SYS_EXIT = 60 if os.uname().machine == "x86_64" else 93  # ends one thread, not the process


def collections() -> int:
    """Return how often this process has collected the youngest generation."""
    return int(gc.get_stats()[0]["collections"])


def collect(times: int) -> int:
    """Collect the youngest generation; return how often that was done since the process began."""
    for _ in range(times):
        gc.collect(0)
    return collections()


def collect_and_exit(times: int) -> None:
    """Collect, and be gone with the very next system call."""
    collect(times)
    os._exit(0)


def execute(argv: list[str]) -> None:
    """Become another program, or this one again."""
    argv = argv or sys.orig_argv
    os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted


def execute_in_thread(argv: list[str]) -> None:
    """The same, by a thread that is not the first: the kernel gives it the first one's number and start time."""
    thread = threading.Thread(target=execute, args=(argv,))
    thread.start()
    thread.join()


def lose_first_thread() -> None:
    """End the thread that all began with; another one goes on taking commands."""
    thread = threading.Thread(target=serve)
    thread.start()
    # Not by a Python function, as those would end the process: the C call has let go of the interpreter's lock.
    ctypes.CDLL(None).syscall(SYS_EXIT, 0)


def rename(name: str) -> None:
    """Take another comm."""
    with open("/proc/self/comm", "w") as comm:  # noqa: PTH123 - the pathlib import would be another module to load
        comm.write(name)


CHILDREN: dict[int, tuple[int, int]] = {}


def fork(name: str) -> int:
    """Fork a child of another comm, which collects as often as it is told through `child_collects`."""
    orders, orders_in = os.pipe()
    answers, answers_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        rename(name)
        os.close(orders_in)
        while order := os.read(orders, 4):  # ends with the parent, who alone has the other end
            collect(int.from_bytes(order, sys.byteorder))
            os.write(answers_in, b".")
        os._exit(0)
    os.close(orders)
    os.close(answers_in)
    CHILDREN[pid] = orders_in, answers
    return pid


def child_collects(pid: int, times: int) -> None:
    """Have a child collect; return when it has."""
    orders, answers = CHILDREN[pid]
    os.write(orders, times.to_bytes(4, sys.byteorder))
    os.read(answers, 1)


COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command
    for command in (collect, collect_and_exit, execute, execute_in_thread, lose_first_thread, rename, fork)
} | {"child_collects": child_collects}


def answer(value: object) -> None:
    """Say one line; not through sys.stdout, whose buffer an exec would lose."""
    os.write(1, json.dumps(value).encode() + b"\n")


def serve() -> None:
    """Answer commands until nobody sends any more."""
    answer({"pid": os.getpid(), "collections": collections()})
    while line := sys.stdin.readline():
        command, *arguments = json.loads(line)
        answer(COMMANDS[command](*arguments))
    os._exit(0)


def take_number(pid: int) -> None:
    """Return in a child of that pid, in the PID namespace that we are in; someone else may be quicker a few times."""
    with open("/proc/self/comm") as comm:  # noqa: PTH123 - as above
        name = comm.read().strip()
    rename("launcher")
    while True:
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:  # noqa: PTH123 - as above
            last.write(str(pid - 1))
        child = os.fork()
        if child == 0:
            if os.getpid() == pid:
                rename(name)
                return
            os._exit(0)
        os.waitpid(child, 0)
        if child == pid:
            os._exit(0)


gc.disable()
if len(sys.argv) > 1:
    take_number(int(sys.argv[1]))
serve()
