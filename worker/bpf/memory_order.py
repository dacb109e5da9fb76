"""Keeping accesses to memory that the kernel writes at the same time in their order."""

import os


def keep_order() -> None:
    """Let every load before this be done before any access after it.

    Python has no memory barriers, and a processor such as arm64's may load what comes later first: a record from
    before the position that says it is there. The way into the kernel and back waits for the loads that a branch has
    depended on and throws away what was begun ahead (on arm64 it is a context synchronization event, as ISB is); the
    caller branches on what it loaded. x86 keeps loads in order anyway. A tenth of a microsecond.
    """
    os.getppid()
