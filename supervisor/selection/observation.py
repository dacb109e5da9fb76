"""One look at the processes: their table, and what was asked for about each of them."""

import time
from collections.abc import Callable, Mapping
from functools import lru_cache

from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.processes import Process, age_seconds
from ebpf_userspace_exporter.supervisor.selection.facts import Facts, Unreadable
from ebpf_userspace_exporter.supervisor.selection.listening import ListeningSockets
from ebpf_userspace_exporter.supervisor.selection.verdict import Outcome

MAX_FACTS = 256  # kept for as long as the look lasts; a process can make its own large

ReadFacts = Callable[[Process, ListeningSockets], Facts]


class Observation:
    """What is known at one moment; `now` is in seconds of the monotonic clock.

    A fact is read once for all programs, and for all children of a parent.
    """

    def __init__(self, table: Mapping[int, Process], now: float, read_facts: ReadFacts = Facts) -> None:
        self._table = table
        # Start ticks count the time that the machine was suspended, the monotonic clock does not.
        self._uptime = now + time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        sockets = ListeningSockets()
        self.facts = lru_cache(MAX_FACTS)(lambda process: read_facts(process, sockets))
        self._ancestry: dict[int, dict[int, Outcome]] = {}

    def age_seconds(self, process: Process) -> float:
        """Return for how long the process has been running."""
        return age_seconds(process, self._uptime)

    def parent(self, process: Process) -> Process | Unreadable | None:
        """Return its parent; None where it has none that could be seen from our PID namespace."""
        if not process.ppid:
            return None
        return self._table.get(process.ppid, Unreadable(f"process {process.ppid} is not there any more"))

    def ancestry(self, selector: Selector) -> dict[int, Outcome]:
        """Return, to be added to, whether an ancestor of a process matches the selector, by the process's pid."""
        return self._ancestry.setdefault(id(selector), {})  # which the config keeps alive for longer than a look
