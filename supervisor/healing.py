"""Finds the forked children of targets that carry inherited breakpoints, and has them taken out.

A child's memory is a copy of its parent's, so start_stack and arg_start are the same until it executes something. Under
UPROBE_MULTI nobody removes its breakpoints; see worker/bpf/heal.py.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.entry import Entry
from ebpf_userspace_exporter.supervisor.processes import Process
from ebpf_userspace_exporter.worker.bpf.heal import heal
from ebpf_userspace_exporter.worker.image import Image
from ebpf_userspace_exporter.worker.kernel import uninterrupted
from ebpf_userspace_exporter.worker.reasons import AttachError
from ebpf_userspace_exporter.worker.target_files import TargetGone, open_probed

logger = structlog.get_logger()

HEAL_SECONDS = 20.0


@dataclass(slots=True)
class Healer:
    """One child at a time heals all that the last look at the process table has found."""

    _done: set[tuple[int, int]] = field(default_factory=set)
    _child: int | None = None
    _kill_at: float = 0.0

    def look(self, table: Mapping[int, Process], entries: Iterable[Entry], now: float) -> None:
        """Heal every process that shares the memory layout of an attached target and is none itself."""
        if self._child is not None:
            if self._kill_at <= now:
                children.kill(self._child)
            return
        parents: dict[tuple[int, int], list[Image]] = {}
        own: set[int] = set()
        for entry in entries:
            own.add(entry.slot.pid)
            if entry.is_enabled and entry.holdings.image is not None:
                mark = entry.target.exec_mark
                parents.setdefault((mark.start_stack, mark.arg_start), []).append(entry.holdings.image)
        sick = [
            (process, parents[process.start_stack, process.arg_start])
            for process in table.values()
            if process.pid not in own and process.start_stack and (process.start_stack, process.arg_start) in parents
        ]
        alive = {_identity(process) for process, _ in sick}
        self._done &= alive
        if todo := [(process.pid, images) for process, images in sick if _identity(process) not in self._done]:
            try:
                self._child = children.spawn("exporter-healer", lambda: _heal_all(todo), keep=())
            except OSError as error:
                logger.debug("no child could be forked to heal", error=str(error))
                return  # the next look finds them again
            self._done |= alive
            self._kill_at = now + HEAL_SECONDS

    def on_exit(self, pid: int) -> bool:
        """Note that the healer has done its work; False if that child was not it."""
        if pid != self._child:
            return False
        self._child = None
        return True

    def stop(self) -> None:
        """End the healer, to exit."""
        if self._child is not None:
            children.terminate(self._child)

    def kill(self) -> None:
        """Kill a healer that does not end."""
        if self._child is not None:
            children.kill(self._child)

    @property
    def is_idle(self) -> bool:
        """Whether no child is left."""
        return self._child is None


def _identity(process: Process) -> tuple[int, int]:
    return process.pid, process.start_ticks


def _heal_all(todo: Iterable[tuple[int, Iterable[Image]]]) -> None:
    """In the healer. Whoever has left, or executed something meanwhile, has no breakpoints."""
    for pid, images in todo:
        for image in images:
            try:
                with uninterrupted():
                    _heal(pid, image)
            except (AttachError, TargetGone, OSError):
                continue


def _heal(pid: int, image: Image) -> None:
    places = []
    with contextlib.ExitStack() as stack:
        for number, file in enumerate(image.files):
            probes = [probe for probe in image.probes if probe.file == number]
            offsets = [probe.offset for probe in probes]
            opened = open_probed(pid, file)
            stack.callback(os.close, opened)
            places.append((opened, offsets, [probe.ref_ctr_offset for probe in probes]))
        heal(pid, places)
