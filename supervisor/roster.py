"""Every slot's entry, and which child works for which."""

from dataclasses import dataclass, field
from math import inf

from ebpf_userspace_exporter.supervisor.entry import Entry, Phase
from ebpf_userspace_exporter.supervisor.targets import Slot


@dataclass(slots=True)
class Roster:
    """`by_pid` are the children that an entry waits for; `has_changed` says that reconcile has something to look at."""

    entries: dict[Slot, Entry] = field(default_factory=dict)
    by_pid: dict[int, Entry] = field(default_factory=dict)
    has_changed: bool = True

    def wake(self, now: float) -> None:
        """Have everybody who waits for an image ask again."""
        for entry in self.entries.values():
            if entry.phase is Phase.WAITING and entry.worker is None and entry.retry_at == inf:
                entry.retry_at = now
        self.has_changed = True

    def retry(self, entry: Entry, now: float) -> bool:
        """Have an entry that waits for a worker try again; False if it waits no more."""
        if entry.phase is not Phase.WAITING or entry.worker is not None or self.entries.get(entry.slot) is not entry:
            return False
        entry.retry_at = now
        self.has_changed = True
        return True
