"""Lets go of workers, links and maps in such an order that the supervisor never waits for the kernel."""

import os
import selectors

from ebpf_userspace_exporter.supervisor.channels import is_leaving
from ebpf_userspace_exporter.supervisor.departures import Departures
from ebpf_userspace_exporter.supervisor.descriptors import close_all
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase, Worker
from ebpf_userspace_exporter.supervisor.forking import fork_closer


class Detacher:
    """Knows which children work for an entry, and which are leaving."""

    def __init__(self, selector: selectors.BaseSelector, working: dict[int, Entry]) -> None:
        self.departures = Departures()
        self._selector = selector
        self._working = working

    def let_go(self, entry: Entry, now: float) -> None:
        """Close what is held for the entry, its links in a child."""
        self.unwatch(entry)
        last = self.last_to_close(entry, now)
        entry.close_holdings()
        entry.worker = None
        if last is not None:
            self._depart(entry, last, now)
        if entry.pidfd >= 0:
            os.close(entry.pidfd)
            entry.pidfd = -1

    def last_to_close(self, entry: Entry, now: float) -> Worker | None:
        """Return the child that is to close the entry's links after we did; its worker, if there are none.

        Closing waits for the kernel (worker.bpf.closing), for which the supervisor has no time. A worker that is
        exiting may have closed its own links already.
        """
        worker, links = entry.worker, (*entry.holdings.links, *entry.holdings.partial_links)
        if not links or (worker is not None and not is_leaving(worker)):
            return worker
        if worker is not None:
            self._depart(entry, worker, now)
        return fork_closer(links, now)

    def close_partial_links(self, entry: Entry, now: float) -> Worker | None:
        """Close links that are worth nothing; return the child to wait for, or events would be counted twice."""
        partial_links = entry.holdings.partial_links
        closer = fork_closer(partial_links, now) if partial_links else None
        close_all(partial_links)
        if closer is not None:
            self._working[closer.pid] = entry
        return closer

    def _depart(self, entry: Entry, worker: Worker, now: float) -> None:
        """Have a child leave in its own time; nobody listens to it any more."""
        self.hang_up(worker)
        if not worker.is_reaped:
            self._working.pop(worker.pid, None)
            may_attach = entry.phase is Phase.STARTING
            self.departures.add(worker.pid, entry.slot, entry.generation, now, may_attach=may_attach)

    def hang_up(self, worker: Worker) -> None:
        """Listen to a worker no more, which tells it to exit."""
        if worker.channel is not None:
            self._selector.unregister(worker.channel)
            worker.channel.close()
            worker.channel = None

    def unwatch(self, entry: Entry) -> None:
        """Wait for the exit of the entry's process no more."""
        if entry.is_watched:
            self._selector.unregister(entry.pidfd)
            entry.is_watched = False
