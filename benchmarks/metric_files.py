"""Metric files by the hundred, written in place as workers do."""

import contextlib
import math
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ebpf_userspace_exporter.worker.metric_file import MetricFile, Place, metric_key

METRICS, LABEL_SETS = 10, 33  # counters a file
HISTOGRAMS, BUCKETS = 5, 64  # a file; each with its sum and its count


@contextlib.contextmanager
def metric_files(kind: str, number: int) -> Iterator[tuple[Path, "Files"]]:
    """Give a folder in memory with so many files of one kind, and what changes them."""
    with tempfile.TemporaryDirectory(prefix="exporter-bench-", dir="/dev/shm") as folder:
        files = Files(Path(folder), kind, number)
        try:
            yield Path(folder), files
        finally:
            files.close()


class Files:
    """Metric files of one kind."""

    def __init__(self, folder: Path, kind: str, number: int) -> None:
        self.samples = number * (METRICS * LABEL_SETS if kind == "counter" else HISTOGRAMS * (BUCKETS + 2))
        self._random = random.Random(1)  # noqa: S311 - the same values in each run
        self._slots: list[tuple[MetricFile, list[Place], list[float]]] = []
        for pid in range(4000, 4000 + number):
            file = MetricFile.create(folder / f"{kind}_bench-12345678_{pid}.db", group=None)
            keys, values = (self._counters if kind == "counter" else self._histograms)(pid)
            self._slots.append((file, file.slots(keys), values))
        self.change()

    def change(self) -> None:
        """Let every value grow."""
        for file, slots, values in self._slots:
            values[:] = [value + self._random.randrange(1, 4) for value in values]
            file.store(slots, values, [0.0] * len(slots))

    def _counters(self, pid: int) -> tuple[list[str], list[float]]:
        keys = [
            metric_key(
                f"bench_{metric}", f"bench_{metric}_total", (("function", f"fn_{number}"), ("pid", str(pid))), "Help."
            )
            for metric in range(METRICS)
            for number in range(LABEL_SETS)
        ]
        return keys, [self._count() for _ in keys]

    def _histograms(self, pid: int) -> tuple[list[str], list[float]]:
        keys, values = [], []
        bounds = (*(str(2.0**power) for power in range(BUCKETS - 1)), "+Inf")
        for name in (f"bench_{number}" for number in range(HISTOGRAMS)):
            keys += [
                metric_key(name, f"{name}_bucket", (("function", "fn"), ("pid", str(pid)), ("le", le)), "Help.")
                for le in bounds
            ]
            keys.append(metric_key(name, f"{name}_sum", (("function", "fn"), ("pid", str(pid))), "Help."))
            middle, observations = self._random.uniform(8, 40), self._count()
            shares = [math.exp(-((place - middle) ** 2) / 18) for place in range(BUCKETS)]
            values += [float(int(observations * share / sum(shares))) for share in shares]
            values.append(observations * 1.5)
        return keys, values

    def _count(self) -> float:
        """Return a count, of each magnitude as many; one in seven is from a million on, which Go spells otherwise."""
        return float(int(10 ** self._random.uniform(0, 7)))

    def close(self) -> None:
        """Let go of the files, which stay."""
        for file, _, _ in self._slots:
            file.close()
