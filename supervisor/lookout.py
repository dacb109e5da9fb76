"""Looks at the processes, and remembers what they make of the config until the next look."""

import os
from collections.abc import Mapping, Sequence

import structlog

from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.entry import Entry
from ebpf_userspace_exporter.supervisor.matching import Definition, Matcher
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.processes import Process, process_table
from ebpf_userspace_exporter.supervisor.targets import Slot, Target

logger = structlog.get_logger()

Entries = Mapping[Slot, Entry]


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
    ) -> None:
        """Look every `scan_interval` seconds."""
        self.desired: dict[Slot, Target] = {}
        self.leaderless: frozenset[Slot] = frozenset()
        self.first: frozenset[Slot] | None = None
        """What was desired after the first look; None before it."""
        self.next_look = 0.0
        self._definitions = definitions
        self._matcher = Matcher(definitions, exclude, rescan_seconds=rescan_interval)
        self._metrics = metrics
        self._scan_interval = scan_interval
        self._left_out: Mapping[str, int] = {}

    def define(self, definitions: Mapping[str, Definition], exclude: Sequence[Selector]) -> None:
        """Take the programs of another config, at once."""
        self._definitions = definitions
        self._matcher.define(definitions, exclude)
        self.next_look = 0.0

    def look(self, entries: Entries, now: float) -> Mapping[int, Process] | None:
        """Look if it is time to; return the process table, None if it is not or the table cannot be read."""
        if now < self.next_look:
            return None
        self.next_look = now + self._scan_interval
        try:
            table = process_table()
        except OSError as error:
            logger.error("cannot look at the processes; those known go on", error=str(error))
            return None
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
        """Want no target whose exit was told since the last look, which still shows it: it would be taken up again."""
        for slot, entry in entries.items():
            wanted = self.desired.get(slot)
            if entry.exited and wanted is not None and wanted.start_ticks == entry.target.start_ticks:
                del self.desired[slot]

    def tell_unmatched(self) -> None:
        """Say which programs have nothing to do: a misspelt name looks like a process that has not started yet."""
        matched = {slot.program for slot in self.desired}
        for name in self._definitions:
            if name not in matched:
                logger.info("no process matches yet", program=name)

    def _note_left_out(self, left_out: Mapping[str, int]) -> None:
        """Count and tell targets beyond max_targets when they come, not with every look."""
        for name, number in left_out.items():
            before = self._left_out.get(name, 0)
            self._metrics.dropped_series.labels(name, "max_targets").inc(max(0, number - before))
            if not before:
                limit = self._definitions[name].program.max_targets
                logger.warning("more targets than max_targets", program=name, max_targets=limit, left_out=number)
        self._left_out = left_out
