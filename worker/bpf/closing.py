"""Links closed side by side, by the exit of the process that holds the last copies of them."""

import contextlib
import os
import signal
from _thread import start_new_thread
from collections.abc import Iterable, Sequence
from queue import SimpleQueue

from ebpf_userspace_exporter.worker.kernel import unshare_descriptors

_MOST_THREADS = 32


def close_at_exit(links: Sequence[int]) -> None:
    """Have this process's exit, which must come next, close the links side by side.

    Whoever closes the last copy of a link waits for RCU grace periods, 50 ms; those who wait at the same time share
    them (uprobe_unregister_sync in kernel/events/uprobes.c). So each of some threads keeps a share of the links in a
    descriptor table of its own until it exits. It must not call close(2): a fatal signal during that leaves the
    kernel's uprobe behind for good, and of an exit there is no interruption. What cannot be shared out, for want of
    threads or where a container forbids unshare(2), the exit closes one after another.
    """
    parted: SimpleQueue[Sequence[int]] = SimpleQueue()
    shares = [links[first::_MOST_THREADS] for first in range(min(len(links), _MOST_THREADS))]
    started = 0
    with contextlib.suppress(RuntimeError):
        for share in shares:
            start_new_thread(_keep, (share, links, parted))
            started += 1
    # All of them, before any is closed here: a table is a copy of what is open when it is made.
    kept = [parted.get() for _ in range(started)]
    for share in kept:
        _close(share)


def _keep(share: Sequence[int], links: Sequence[int], parted: SimpleQueue[Sequence[int]]) -> None:
    """In a thread: hold these links, and no others, until the process exits; say which are held."""
    try:
        unshare_descriptors()
    except OSError:
        parted.put(())
        return
    _close(set(links) - set(share))
    parted.put(share)
    signal.pause()


def _close(links: Iterable[int]) -> None:
    for link in links:
        os.close(link)
