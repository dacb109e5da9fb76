"""One scrape's question to all workers at once, and the answers that come in time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ebpf_userspace_exporter.supervisor.control import Client
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase


@dataclass(slots=True)
class _Round:
    sequence: int
    deadline: float
    clients: list[Client]
    waiting: list[Entry]
    stale: int


@dataclass(slots=True)
class Refresher:
    """Rounds of questions, one after another: who comes while one is under way gets the next.

    Joining the one under way would show a scrape what its workers read before it asked.
    """

    ask: Callable[[Entry, int, float], bool]
    finish: Callable[[Iterable[Client], int, int], None]  # (who asked, fresh workers, stale workers)
    _round: _Round | None = None
    _queue: list[tuple[Client, float]] = field(default_factory=list)
    _sequence: int = 0

    def request(self, client: Client, deadline: float) -> None:
        """Have the client answered when all workers have, or at the deadline."""
        self._queue.append((client, deadline))

    def advance(self, entries: Iterable[Entry], now: float) -> None:
        """End the round whose answers are in or whose time is over; begin the next if somebody waits for it."""
        if self._round is not None:
            self._end_if_due(self._round, now)
        if self._round is None and self._queue:
            self._begin(list(entries), now)

    def next_deadline(self) -> float:
        """Return when `advance` has something to do, on the monotonic clock."""
        return float("inf") if self._round is None else self._round.deadline

    def _begin(self, entries: list[Entry], now: float) -> None:
        self._sequence += 1
        running = [entry for entry in entries if entry.phase is Phase.RUNNING]
        # A dead worker's values are not fresh either, until its successor has read the maps.
        dead = sum(1 for entry in entries if entry.is_enabled and entry.phase is not Phase.RUNNING)
        asked = [entry for entry in running if self.ask(entry, self._sequence, now)]
        clients = [client for client, _ in self._queue]
        deadline = max(deadline for _, deadline in self._queue)
        self._queue.clear()
        self._round = _Round(self._sequence, deadline, clients, asked, dead + len(running) - len(asked))
        self._end_if_due(self._round, now)

    def _end_if_due(self, current: _Round, now: float) -> None:
        asked = len(current.waiting)
        missing = [entry for entry in current.waiting if not _has_answered(entry, current.sequence)]
        if missing and now < current.deadline:
            return
        self._round = None
        self.finish(current.clients, asked - len(missing), current.stale + len(missing))


def _has_answered(entry: Entry, sequence: int) -> bool:
    """Whether the entry need not be waited for: it has answered, or its target is gone and its last values are in."""
    if entry.phase is Phase.RUNNING and entry.worker is not None:
        return entry.worker.answered >= sequence
    return entry.phase is Phase.EXITED
