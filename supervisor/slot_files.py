"""A slot's metric files in the state directory: put in place, and removed."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.supervisor.state_dir import StateDir
from ebpf_userspace_exporter.supervisor.targets import Slot
from ebpf_userspace_exporter.worker import file_names

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SlotFiles:
    """What somebody else has put there costs that slot's files and a line in the log, not the loop."""

    state_dir: StateDir

    def publish(self, slot: Slot, program: Program, generation: int) -> None:
        """Put what a generation has written in the place of what readers see."""
        self._change(slot, lambda folder: file_names.publish(folder, program, slot.pid, generation))

    def remove(self, slot: Slot) -> None:
        """Remove the slot's files, half written ones too."""
        self._change(slot, lambda folder: file_names.remove(folder, slot.program, slot.pid))

    def remove_unpublished(self, slot: Slot, generation: int) -> None:
        """Remove what one generation has written and nobody will publish any more."""
        self._change(slot, lambda folder: file_names.remove_unpublished(folder, slot.program, slot.pid, generation))

    def _change(self, slot: Slot, change: Callable[[int], object]) -> None:
        try:
            change(self.state_dir.descriptor)
        except OSError as error:
            logger.error(
                "metric files neither published nor removed", program=slot.program, pid=slot.pid, error=str(error)
            )
