"""Metric files in the state directory: put in place, and removed."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.supervisor.epoch import Epoch
from ebpf_userspace_exporter.supervisor.state_dir import StateDir
from ebpf_userspace_exporter.supervisor.targets import Slot
from ebpf_userspace_exporter.worker import file_names

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SlotFiles:
    """What somebody else has put there costs that slot's files and a line in the log, not the loop."""

    state_dir: StateDir
    epoch: Epoch

    def publish(self, slot: Slot, program: Program, generation: int) -> None:
        """Put what a generation has written in the place of what readers see."""
        self._change(slot.program, lambda folder: file_names.publish(folder, program, slot.pid, generation))

    def remove(self, slot: Slot) -> None:
        """Remove the slot's files, half written ones too."""
        self._change(slot.program, lambda folder: file_names.remove(folder, slot.program, slot.pid))

    def remove_gauges(self, slot: Slot) -> None:
        """Remove what is of the present, and so of nobody once the target is gone."""
        names = [file_names.metric_file_name(kind, slot.program, slot.pid) for kind in file_names.GAUGE_KINDS]
        self._change(slot.program, lambda folder: _discard(names, folder))

    def remove_unpublished(self, slot: Slot, generation: int) -> None:
        """Remove what one generation has written and nobody will publish any more."""
        self._change(
            slot.program, lambda folder: file_names.remove_unpublished(folder, slot.program, slot.pid, generation)
        )

    def retire(self, slot: Slot, number: int) -> bool:
        """Give the slot's totals names of their own, so that another target can have the slot; False if it has none."""
        renamed: list[str] = []

        def rename(folder: int) -> None:
            with self.epoch.changing():
                for kind in file_names.FOLDED_KINDS:
                    name = file_names.metric_file_name(kind, slot.program, slot.pid)
                    retired = file_names.retired_file_name(kind, slot.program, number)
                    if _rename(name, retired, folder):
                        renamed.append(retired)

        if self._change(slot.program, rename):
            self.remove(slot)
        return bool(renamed)

    def publish_folded(self, program: str, generation: int, retired: Iterable[int]) -> None:
        """Put the new totals in the place of the old ones and of the retired files that they hold."""

        def publish(folder: int) -> None:
            with self.epoch.changing():
                for kind in file_names.FOLDED_KINDS:
                    name = file_names.folded_file_name(kind, program)
                    if not _rename(f"{name}.{generation}.tmp", name, folder):
                        file_names.discard(name, folder)
                    _discard([file_names.retired_file_name(kind, program, number) for number in retired], folder)

        self._change(program, publish)

    def remove_unfolded(self, program: str, generation: int) -> None:
        """Remove totals that were written and are not to be shown."""
        names = [f"{file_names.folded_file_name(kind, program)}.{generation}.tmp" for kind in file_names.FOLDED_KINDS]
        self._change(program, lambda folder: _discard(names, folder))

    def remove_totals(self, program: str) -> None:
        """Remove what is left of all targets that are gone, at once."""

        def remove(folder: int) -> None:
            with self.epoch.changing():
                _discard(file_names.totals_in(folder, program), folder)

        self._change(program, remove)

    def _change(self, program: str, change: Callable[[int], object]) -> bool:
        try:
            change(self.state_dir.descriptor)
        except OSError as error:
            logger.error("metric files neither published nor removed", program=program, error=str(error))
            return False
        return True


def _discard(names: Iterable[str], folder: int) -> None:
    for name in names:
        file_names.discard(name, folder)


def _rename(name: str, new: str, folder: int) -> bool:
    """Rename a file; False if there is none."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    file_names.rename(name, new, folder)
    return True
