"""Children whose work is over: they detach in their own time, and nobody listens to them any more."""

from dataclasses import dataclass, replace

from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.targets import Slot

LEAVE_SECONDS = 10.0  # to detach; perf events cost up to a tenth of a second each


@dataclass(frozen=True, slots=True)
class Departure:
    """A child that detaches, or still attaches: then SIGTERM comes before SIGKILL (worker.kernel.uninterrupted)."""

    slot: Slot
    generation: int
    kill_at: float
    may_attach: bool


class Departures:
    """The children that leave, by pid."""

    def __init__(self) -> None:
        self._by_pid: dict[int, Departure] = {}

    def add(self, pid: int, slot: Slot, generation: int, now: float, *, may_attach: bool) -> None:
        """Give a child its time to leave."""
        self._by_pid[pid] = Departure(slot, generation, now + LEAVE_SECONDS, may_attach)

    def on_exit(self, pid: int) -> Departure | None:
        """Return what a child was that has left; None if it was none of these."""
        return self._by_pid.pop(pid, None)

    def kill_late(self, now: float) -> None:
        """End those that take too long."""
        for pid, departure in self._by_pid.items():
            if departure.kill_at <= now:
                (children.terminate if departure.may_attach else children.kill)(pid)
                self._by_pid[pid] = replace(departure, kill_at=now + LEAVE_SECONDS, may_attach=False)

    @property
    def pids(self) -> tuple[int, ...]:
        """Those that have not left yet."""
        return tuple(self._by_pid)
