"""Which targets stay where a program has more of them than it may have."""

from collections.abc import Iterable, Set

from ebpf_userspace_exporter.supervisor.targets import Slot, Target


def within_limit(targets: Iterable[Target], most: int, known: Set[Slot]) -> list[Target]:
    """Return at most so many of the targets: those that are known already, then the oldest processes."""
    return sorted(targets, key=lambda target: (target.slot not in known, target.start_ticks, target.slot.pid))[:most]
