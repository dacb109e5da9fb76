"""Keeps the totals of targets that are gone, for programs whose series do not tell targets apart."""

import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import structlog

from ebpf_userspace_exporter.config.target_labels import is_aggregated
from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.matching import Definition
from ebpf_userspace_exporter.supervisor.retrying import retry_seconds
from ebpf_userspace_exporter.supervisor.slot_files import SlotFiles
from ebpf_userspace_exporter.supervisor.targets import Slot, Target
from ebpf_userspace_exporter.worker.fold import fold
from ebpf_userspace_exporter.worker.metric_file import MetricFileError

logger = structlog.get_logger()

FOLD_SECONDS = 30.0
_MAX_REPORT_BYTES = 1 << 20


@dataclass(slots=True)
class _Totals:
    """One program's: `series` are what the folded file holds; `retired` what each file holds that is still to be."""

    definition: Definition
    retired: dict[int, int] = field(default_factory=dict)
    series: int = 0
    is_outdated: bool = False  # folded for a former definition of the program
    attempts: int = 0
    retry_at: float = 0.0


@dataclass(slots=True)
class _Child:
    program: str
    totals: _Totals
    definition: Definition
    has_filtered: bool
    retired: tuple[int, ...]
    generation: int
    report_fd: int
    kill_at: float


class Folding:
    """One child at a time adds files up; the supervisor itself only renames and removes them.

    A file counts from the moment that its target is gone: under a name of its own until it is folded.
    """

    def __init__(self, files: SlotFiles, group: int | None) -> None:
        self._files = files
        self._group = group
        self._programs: dict[str, _Totals] = {}
        self._child: tuple[int, _Child] | None = None
        self._numbers = itertools.count(1)
        self._in_use: Counter[tuple[str, str]] = Counter()  # targets by program and digest

    def begin(self, target: Target) -> None:
        """Have what a target's definition counts in kept for as long as it may count."""
        self._in_use[target.slot.program, target.definition] += 1

    def end(self, target: Target) -> None:
        """Take note that a target counts no more."""
        key = target.slot.program, target.definition
        self._in_use[key] -= 1
        if not self._in_use[key]:
            del self._in_use[key]

    def define(self, definitions: Mapping[str, Definition]) -> None:
        """Take the programs of a config; totals of those that are gone, or tell targets apart now, end."""
        summed = {name: each for name, each in definitions.items() if is_aggregated(each.program)}
        for name in [name for name in self._programs if name not in summed]:
            self._files.remove_totals(name)
            del self._programs[name]
        for name, definition in summed.items():
            totals = self._programs.setdefault(name, _Totals(definition))
            totals.is_outdated |= definition.digest != totals.definition.digest
            totals.definition = definition

    def retire(self, slot: Slot, series: int) -> None:
        """Take the files, of so many label sets, of a slot whose target, or definition, is no more."""
        totals = self._programs.get(slot.program)
        if totals is None:
            self._files.remove(slot)
            return
        number = next(self._numbers)
        if self._files.retire(slot, number):
            totals.retired[number] = series

    def series(self, program: str) -> int:
        """Return how many label sets the program's totals have; those of files that are not folded yet may be equal."""
        totals = self._programs.get(program)
        return 0 if totals is None else totals.series + sum(totals.retired.values())

    def advance(self, now: float) -> None:
        """Start to fold what there is to fold, if nothing is being folded; end what takes too long."""
        if self._child is not None:
            pid, child = self._child
            if child.kill_at <= now:
                children.kill(pid)
                child.kill_at = now + FOLD_SECONDS
            return
        for name, totals in self._programs.items():
            if self._is_due(name, totals) and totals.retry_at <= now:
                self._start(name, totals, now)
                return

    def next_deadline(self) -> float:
        """Return when `advance` has something to do, on the monotonic clock."""
        if self._child is not None:
            return self._child[1].kill_at
        return min((each.retry_at for name, each in self._programs.items() if self._is_due(name, each)), default=inf)

    def on_exit(self, pid: int, exit_code: int, now: float) -> bool:
        """Put in place what a child has written; False if it was no child of these."""
        if self._child is None or self._child[0] != pid:
            return False
        child = self._child[1]
        self._child = None
        report = os.pread(child.report_fd, _MAX_REPORT_BYTES, 0)
        os.close(child.report_fd)
        totals = child.totals
        if self._programs.get(child.program) is not totals:  # removed meanwhile; what is there now is another one's
            self._files.remove_unfolded(child.program, child.generation)
        elif exit_code:
            self._files.remove_unfolded(child.program, child.generation)
            said = report.decode(errors="replace")
            self._try_later(child.program, totals, said or children.describe_exit(exit_code), now)
        else:
            self._take(child, totals, report)
        return True

    def kill(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            children.kill(self._child[0])

    @property
    def is_idle(self) -> bool:
        """Whether no child is at work."""
        return self._child is None

    def _is_due(self, name: str, totals: _Totals) -> bool:
        return bool(totals.retired) or (totals.is_outdated and not self._has_former_targets(name, totals))

    def _has_former_targets(self, name: str, totals: _Totals) -> bool:
        """Whether any target still counts by another definition: till it is swapped, for good where that is refused."""
        return any(program == name and digest != totals.definition.digest for program, digest in self._in_use)

    def _start(self, name: str, totals: _Totals, now: float) -> None:
        filters = totals.is_outdated and not self._has_former_targets(name, totals)
        generation, retired = next(self._numbers), tuple(totals.retired)
        program, directory, group = totals.definition.program, self._files.state_dir.path, self._group
        report_fd = os.memfd_create("folded")

        def run() -> None:
            try:
                done = fold(program, directory, retired, generation, group, has_changed=filters)
            except MetricFileError as error:
                os.write(report_fd, str(error).encode(errors="backslashreplace"))
                raise SystemExit(1) from error
            os.write(report_fd, json.dumps({"series": done.series, "unreadable": done.unreadable}).encode())

        try:
            pid = children.spawn("exporter-folder", run, keep=(report_fd,))
        except OSError as error:
            os.close(report_fd)
            self._try_later(name, totals, str(error), now)
            return
        self._child = (
            pid,
            _Child(name, totals, totals.definition, filters, retired, generation, report_fd, now + FOLD_SECONDS),
        )

    def _take(self, child: _Child, totals: _Totals, report: bytes) -> None:
        self._files.publish_folded(child.program, child.generation, child.retired)
        for number in child.retired:
            del totals.retired[number]
        totals.attempts, totals.retry_at = 0, 0.0
        if child.has_filtered and child.definition.digest == totals.definition.digest:
            totals.is_outdated = False
        with contextlib.suppress(ValueError):
            said = json.loads(report)
            totals.series = int(said["series"])
            for text in said["unreadable"]:
                logger.error("values of a target that is gone are lost", program=child.program, error=str(text))

    def _try_later(self, name: str, totals: _Totals, why: str, now: float) -> None:
        """Leave the files as they are, which are read all the same."""
        totals.attempts += 1
        totals.retry_at = now + retry_seconds(totals.attempts)
        if totals.attempts == 1:
            logger.warning("totals not folded yet", program=name, error=why)
