"""What is shown of every slot: its files, what of them outlives its target, and how many label sets there may be."""

from ebpf_userspace_exporter.supervisor.entry import Entry
from ebpf_userspace_exporter.supervisor.epoch import Epoch
from ebpf_userspace_exporter.supervisor.folding import Folding
from ebpf_userspace_exporter.supervisor.series_budget import SeriesBudget
from ebpf_userspace_exporter.supervisor.slot_files import SlotFiles
from ebpf_userspace_exporter.supervisor.state_dir import StateDir
from ebpf_userspace_exporter.supervisor.targets import Slot


class SlotSeries:
    """A slot's files are its present target's, but for the moment until a successor's take their place.

    Where labels do not tell targets apart there is no such moment: what was counted is kept elsewhere (`folding`).
    """

    def __init__(self, state_dir: StateDir, group: int | None) -> None:
        self._epoch = Epoch(state_dir, group)
        self._files = SlotFiles(state_dir, self._epoch)
        self._budget = SeriesBudget()
        self.folding = Folding(self._files, group)

    def begin(self, entry: Entry) -> None:
        """Take up a target."""
        self._budget.admit(entry.slot)
        self.folding.begin(entry.target)

    def allowance(self, entry: Entry) -> int:
        """Return how many label sets the entry's worker may show."""
        program = entry.program
        return self._budget.allowance(entry.slot, program.max_series, self.folding.series(program.name))

    def note(self, entry: Entry, series: int) -> None:
        """Take note of how many label sets the entry's worker shows."""
        self._budget.take(entry.slot, series)

    def withdraw(self, entry: Entry) -> None:
        """Have others share what the entry's worker was offered, if nothing of it is shown and nobody will show it."""
        if not entry.continues_files:
            self._budget.give_back(entry.slot)

    def publish(self, entry: Entry) -> None:
        """Show what the entry's worker has written."""
        self._files.publish(entry.slot, entry.program, entry.generation)
        entry.continues_files, entry.predecessor_until = True, None

    def end(self, entry: Entry) -> None:
        """Have the next files begin from zero, though the process is the same; those there are stay until then."""
        if entry.is_aggregated and entry.continues_files:
            self.folding.retire(entry.slot, self._budget.series(entry.slot))
        entry.continues_files = False

    def outlive(self, entry: Entry) -> bool:
        """Show what is to be seen of a target that is gone; False if its slot needs to be kept for that."""
        self._files.remove_gauges(entry.slot)
        if not entry.is_aggregated:
            return False
        self.end(entry)
        return True

    def drop(self, entry: Entry, *, keep_files: bool) -> None:
        """Forget the entry, its files too unless others are about to take their place."""
        if entry.is_aggregated and entry.continues_files:
            self.end(entry)
        elif not keep_files:
            self.remove(entry.slot)
        self._budget.give_back(entry.slot)
        self.folding.end(entry.target)

    def remove(self, slot: Slot) -> None:
        """Show nothing of a slot."""
        self._files.remove(slot)

    def remove_unpublished(self, slot: Slot, generation: int) -> None:
        """Remove what a worker that is gone has written and nobody has seen."""
        self._files.remove_unpublished(slot, generation)

    def close(self) -> None:
        """Let go of what is open."""
        self._epoch.close()
