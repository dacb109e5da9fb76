"""Shares a program's `max_series` out among its workers."""

from collections import Counter
from dataclasses import dataclass, replace

from ebpf_userspace_exporter.supervisor.targets import Slot


@dataclass(frozen=True, slots=True)
class _Part:
    """What a worker shows, what it was offered and has not answered yet, and whether it has a use for more."""

    shown: int = 0
    offered: int | None = None
    wants_more: bool = True

    @property
    def charge(self) -> int:
        return self.shown if self.offered is None else self.offered

    @property
    def waits(self) -> bool:
        return self.offered is None

    @property
    def claims(self) -> bool:
        return self.waits and self.wants_more


class SeriesBudget:
    """Counts label sets; what is left is offered to a program's workers in equal parts.

    Half of it is for those who have used all that they were offered the last time: they soon have what others leave.
    None of them can take what another needs. What was offered counts as shown until the worker says what it shows: all
    together never show more than there may be, however late one answers.
    """

    def __init__(self) -> None:
        self._parts: dict[Slot, _Part] = {}
        self._charged: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._claims: Counter[str] = Counter()

    def admit(self, slot: Slot) -> None:
        """Have one more worker share, which is about to be started."""
        if slot not in self._parts:
            self._put(slot, _Part())

    def take(self, slot: Slot, series: int) -> None:
        """Note how many label sets a worker shows; one that shows all that it may has a use for more."""
        before = self._parts.get(slot, _Part())
        wants_more = before.wants_more if before.offered is None else series >= before.offered
        self._put(slot, _Part(series, None, wants_more))

    def give_back(self, slot: Slot) -> None:
        """Share with one worker less."""
        self._put(slot, None)

    def series(self, slot: Slot) -> int:
        """Return how many label sets the slot shows, or is about to."""
        return self._parts.get(slot, _Part()).charge

    def allowance(self, slot: Slot, max_series: int, folded: int) -> int:
        """Return how many label sets a worker may show, given what targets that are gone have left behind."""
        before = self._parts.get(slot, _Part())
        self._put(slot, replace(before, offered=None))
        left = max(0, max_series - folded - self._charged[slot.program])
        more = max(left // self._waiting[slot.program], min(left, 1))
        if before.wants_more:
            more = max(more, left // (2 * self._claims[slot.program]))
        # What it was offered before it may still be about to show.
        offered = max(before.offered or 0, before.shown + more)
        self._put(slot, replace(before, offered=offered))
        return offered

    def _put(self, slot: Slot, part: _Part | None) -> None:
        program, before = slot.program, self._parts.pop(slot, None)
        if before is not None:
            self._charged[program] -= before.charge
            self._waiting[program] -= before.waits
            self._claims[program] -= before.claims
        if part is not None:
            self._parts[slot] = part
            self._charged[program] += part.charge
            self._waiting[program] += part.waits
            self._claims[program] += part.claims
