"""Shares a program's `max_series` out among its workers."""

from collections import Counter

from ebpf_userspace_exporter.supervisor.targets import Slot


class SeriesBudget:
    """Counts label sets; what is left is offered to all of a program's workers in equal parts.

    None of them can take what another needs, and all together never show more than there may be.
    """

    def __init__(self) -> None:
        self._series: dict[Slot, int] = {}
        self._total: Counter[str] = Counter()
        self._slots: Counter[str] = Counter()

    def admit(self, slot: Slot) -> None:
        """Have one more worker share."""
        if slot not in self._series:
            self._series[slot] = 0
            self._slots[slot.program] += 1

    def take(self, slot: Slot, series: int) -> None:
        """Note how many label sets a worker shows."""
        self.admit(slot)
        self._total[slot.program] += series - self._series[slot]
        self._series[slot] = series

    def give_back(self, slot: Slot) -> None:
        """Share with one worker less."""
        if slot in self._series:
            self._total[slot.program] -= self._series.pop(slot)
            self._slots[slot.program] -= 1

    def allowance(self, slot: Slot, max_series: int, folded: int) -> int:
        """Return how many label sets a worker may show, given what targets that are gone have left behind."""
        left = max(0, max_series - folded - self._total[slot.program])
        return self._series.get(slot, 0) + left // max(1, self._slots[slot.program])
