"""Shares a program's `max_series` out among its workers."""

from collections import Counter

from ebpf_userspace_exporter.supervisor.targets import Slot


class SeriesBudget:
    """Counts label sets; what is left is offered in equal parts to a program's workers, who come one after another.

    None of them can take what another needs. What was offered counts as shown until the worker says what it shows: all
    together never show more than there may be, however late one answers.
    """

    def __init__(self) -> None:
        self._shown: dict[Slot, int] = {}
        self._offered: dict[Slot, int] = {}  # not less than what is shown
        self._charged: Counter[str] = Counter()
        self._slots: Counter[str] = Counter()
        self._unanswered: Counter[str] = Counter()

    def take(self, slot: Slot, series: int) -> None:
        """Note how many label sets a worker shows."""
        self.give_back(slot)
        self._shown[slot] = series
        self._slots[slot.program] += 1
        self._charged[slot.program] += series

    def give_back(self, slot: Slot) -> None:
        """Share with one worker less."""
        if slot in self._shown:
            shown = self._shown.pop(slot)
            self._unanswered[slot.program] -= slot in self._offered
            self._charged[slot.program] -= self._offered.pop(slot, shown)
            self._slots[slot.program] -= 1

    def series(self, slot: Slot) -> int:
        """Return how many label sets the slot shows, or is about to."""
        return self._offered.get(slot, self._shown.get(slot, 0))

    def allowance(self, slot: Slot, max_series: int, folded: int) -> int:
        """Return how many label sets a worker may show, given what targets that are gone have left behind."""
        before = self._offered.get(slot, 0)  # which it may still be about to show
        self.take(slot, self._shown.get(slot, 0))
        program, shown = slot.program, self._shown[slot]
        left = max(0, max_series - folded - self._charged[program])
        waiting = self._slots[program] - self._unanswered[program]
        part = max(left // waiting, min(left, 1))
        self._offered[slot] = offered = max(before, shown + part)
        self._unanswered[program] += 1
        self._charged[program] += offered - shown
        return offered
