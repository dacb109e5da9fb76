"""Looks at the processes, and remembers what they make of the config until the next look."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from math import inf

import structlog

from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.entry import Entry
from ebpf_userspace_exporter.supervisor.matching import Definition, Matcher
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.proc_events import ProcEvents
from ebpf_userspace_exporter.supervisor.processes import Process, ProcessTable, age_seconds, read_comm
from ebpf_userspace_exporter.supervisor.targets import Slot, Target

logger = structlog.get_logger()

Entries = Mapping[Slot, Entry]

REREAD_SECONDS = 30.0  # in which every process is read again though no event tells of it: some are lost unsaid
UNTOLD_SECONDS = 1.0  # a process that a pass finds and that is older has been told of, if any event has come


class Lookout:
    """`desired` are the targets there should be; `leaderless` are slots of processes whose first thread has exited."""

    def __init__(
        self,
        definitions: Mapping[str, Definition],
        exclude: Sequence[Selector],
        metrics: OwnMetrics,
        *,
        scan_interval: float,
        rescan_interval: float,
        events: ProcEvents | None = None,
    ) -> None:
        """Pass over the processes every `scan_interval` seconds.

        With `events`, which are let go of by `close`, a process is also looked at soon after something has happened to
        it; a pass then reads those that are new, and only some of the others.
        """
        self.desired: dict[Slot, Target] = {}
        self.leaderless: frozenset[Slot] = frozenset()
        self.first: frozenset[Slot] | None = None
        """What was desired after the first look; None before it."""
        self._events = events
        self._next_pass = 0.0
        self._next_whole_pass = 0.0
        self._table = ProcessTable()
        self._definitions = definitions
        self._matcher = Matcher(definitions, exclude, rescan_seconds=rescan_interval)
        self._metrics = metrics
        self._scan_interval = scan_interval
        self._left_out: Mapping[str, int] = {}

    def define(self, definitions: Mapping[str, Definition], exclude: Sequence[Selector]) -> None:
        """Take the programs of another config, at once."""
        self._definitions = definitions
        self._matcher.define(definitions, exclude)
        self._next_pass = 0.0

    def next_deadline(self) -> float:
        """Return when `look` has something to do."""
        return min(self._next_pass, inf if self._events is None else self._events.next_deadline())

    def look(self, entries: Entries, now: float) -> Mapping[int, Process] | None:
        """Look at what is due; return the process table, None if `desired` is as it was."""
        try:
            if self._next_pass <= now:
                self._pass(now)
            elif not self._look_at_told(now):
                return None
        except OSError as error:
            logger.error("cannot look at the processes; those known go on", error=str(error))
            if self._events is not None:
                self._events.has_overflowed = True  # what was told may not have been looked at
            return None
        table = self._table.processes
        found = self._matcher.look(table, now, os.getpid(), entries.keys())
        self.desired, self.leaderless = found.targets, found.leaderless
        self._note_left_out(found.left_out)
        for slot, entry in entries.items():
            entry.leader_exited = slot in self.leaderless and entry.is_taken_up
            if entry.leader_exited or (slot in found.unreadable and entry.is_taken_up):
                self.desired[slot] = entry.target  # it lives; what it executes cannot be told now
        if self.first is None:
            self.first = frozenset(self.desired)
        return table

    def forget_exited(self, entries: Entries) -> None:
        """Want no target whose exit was told since the last pass: the table shows it still, and it would be taken up.

        The next look shall not want it either, by when its entry may be gone.
        """
        for slot, entry in entries.items():
            wanted = self.desired.get(slot)
            if entry.exited and wanted is not None and wanted.start_ticks == entry.target.start_ticks:
                del self.desired[slot]
                self._table.read([slot.pid])

    def tell_unmatched(self) -> None:
        """Say which programs have nothing to do: a misspelt name looks like a process that has not started yet."""
        matched = {slot.program for slot in self.desired}
        for name in self._definitions:
            if name not in matched:
                logger.info("no process matches yet", program=name)

    def close(self) -> None:
        """Let go of the events."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _pass(self, now: float) -> None:
        """Find who is new and who is gone; here no event is trusted to have come."""
        self._next_pass = now + self._scan_interval
        table = self._table.processes
        if self._events is None:
            self._table.renew(1.0)
            return
        is_first = not table
        told = self._events.take(now, table, everything=True)
        is_whole, self._events.has_overflowed = self._events.has_overflowed, False
        has_heard, self._events.has_heard = self._events.has_heard, False
        come = self._table.renew(1.0 if is_whole else self._scan_interval / REREAD_SECONDS)
        self._table.read(told & table.keys() - {process.pid for process in come})
        if is_whole:
            self._next_whole_pass = self._next_pass
        if not is_first and not has_heard:
            self._distrust(come)

    def _distrust(self, come: Iterable[Process]) -> None:
        """Give the events up where none came though one was due: before Linux 6.6 others can turn them off for all."""
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        if any(age_seconds(process, uptime) > UNTOLD_SECONDS for process in come):
            logger.info("process events have ceased; new targets are found every scan interval")
            self.close()

    def _look_at_told(self, now: float) -> bool:
        """Look at those of whom the events have told; return whether that concerns any program."""
        if self._events is None or self._events.next_deadline() > now:
            return False
        table = self._table.processes
        pids = self._events.take(now, table)
        if self._events.has_overflowed:
            self._next_pass = min(self._next_pass, max(now, self._next_whole_pass))
        if not any(pid in table or self._may_mean(pid) for pid in pids):
            return False  # of most; the next pass finds those that are there for longer
        self._table.read(pids)
        return self._matcher.concerns(pids, table, now)

    def _may_mean(self, pid: int) -> bool:
        comm = read_comm(pid)
        return comm is not None and self._matcher.may_mean(comm)

    def _note_left_out(self, left_out: Mapping[str, int]) -> None:
        """Count and tell targets beyond max_targets when they come, not with every look."""
        for name, number in left_out.items():
            before = self._left_out.get(name, 0)
            self._metrics.dropped_series.labels(name, "max_targets").inc(max(0, number - before))
            if not before:
                limit = self._definitions[name].program.max_targets
                logger.warning("more targets than max_targets", program=name, max_targets=limit, left_out=number)
        self._left_out = left_out
