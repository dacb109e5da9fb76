"""How much memory each worker has of its own, measured a few workers at a time."""

from collections.abc import Iterable
from pathlib import Path

MOST_AT_ONCE = 20  # some tenths of a millisecond each: the kernel walks all pages of the process for it
_PRIVATE = ("Private_Clean:", "Private_Dirty:")


class WorkerMemory:
    """The USS (unique set size) of worker processes, in bytes, by their pids."""

    def __init__(self) -> None:
        self._measured: dict[int, int] = {}

    def measure(self, pids: Iterable[int]) -> dict[int, int]:
        """Return what is known of these workers: of up to MOST_AT_ONCE it is new, first of those never measured."""
        alive = set(pids)
        known = {pid: size for pid, size in self._measured.items() if pid in alive}
        # A dict keeps its order, so the first of the known are those measured the longest ago.
        for pid in [*sorted(alive - known.keys()), *known][:MOST_AT_ONCE]:
            known.pop(pid, None)
            size = _unique_set_size(pid)
            if size is not None:
                known[pid] = size
        self._measured = known
        return dict(known)


def _unique_set_size(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None  # it has ended, or may not be looked at
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_PRIVATE)) or None
