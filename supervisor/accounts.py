"""Counts what workers say of their reads, once, whichever of a target's workers says it."""

from collections.abc import Mapping

from ebpf_userspace_exporter.supervisor.entry import Entry, Usage, Worker
from ebpf_userspace_exporter.supervisor.failures import FailureLog
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.worker.messages import Collected


class Accounts:
    """A successor reads everything anew, and meets the bad keys that its predecessor has told already."""

    def __init__(self, metrics: OwnMetrics, failures: FailureLog) -> None:
        self._metrics = metrics
        self._failures = failures

    def take(self, entry: Entry, worker: Worker, message: Collected) -> None:
        """Count what is new in a worker's message."""
        program, is_first = entry.slot.program, not worker.has_collected
        worker.has_collected = True
        for metric, count in _new(entry.decode_errors, message.decode_errors, is_first=is_first).items():
            self._metrics.decode_errors.labels(program, metric).inc(count)
        for reason, count in _new(entry.dropped, message.dropped, is_first=is_first).items():
            self._metrics.dropped_series.labels(program, reason).inc(count)
        for words in message.warnings:
            self._failures.note_left_out(entry.target, words)
        # A message that would be too long has no functions, which have run all the same.
        usage = Usage(message.maps, message.functions or entry.usage.functions, message.lost_events)
        self._metrics.count_usage(program, entry.usage, usage)
        entry.usage = usage


def _new(known: dict[str, int], said: Mapping[str, int], *, is_first: bool) -> dict[str, int]:
    """Return what a worker has said beyond what is known, and add it to that; its first numbers are totals."""
    new = {name: max(0, count - known.get(name, 0) * is_first) for name, count in said.items()}
    for name, count in new.items():
        known[name] = known.get(name, 0) + count
    return new
