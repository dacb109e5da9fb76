"""From a target's maps to its metric files."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.names import PREFIX
from ebpf_userspace_exporter.worker.file_names import Kind, discard, kinds_of, metric_file_name, temporary_file_name
from ebpf_userspace_exporter.worker.map_rows import CounterRows, HistogramRows, MetricRows, Tally
from ebpf_userspace_exporter.worker.metric_file import MetricFile, MetricFileError, NoSpaceError, read_metric_file
from ebpf_userspace_exporter.worker.series import Ledger, SeriesSet

ReadTable = Callable[[str], Iterable[tuple[bytes, int]]]


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What came of one read of the maps; numbers are what is new since the one before.

    `decode_errors` are bad keys by metric; `dropped` is by reason (`no_space`, `series_limit`), a histogram's buckets
    counting as one; `publish` asks to rename new files; `messages` are for the log, each said once.
    """

    decode_errors: Mapping[str, int]
    dropped: Mapping[str, int]
    publish: bool
    messages: tuple[str, ...]


class Collector:
    """Writes one target's counters and histograms. In the worker.

    Going on from a predecessor's files, if there are any and `inherit` says that they are of the same program on the
    same process. New files are this generation's temporary ones until the supervisor publishes them.
    """

    def __init__(
        self, program: Program, pid: int, directory: Path, *, generation: int, group: int | None, inherit: bool
    ) -> None:
        self._files: dict[Kind, _KindFile] = {
            kind: _KindFile(
                directory / metric_file_name(kind, program.name, pid),
                directory / temporary_file_name(kind, program.name, pid, generation),
                group,
            )
            for kind in kinds_of(program)
        }
        if inherit:
            multipliers = {
                f"{PREFIX}{histogram.name}_sum": histogram.bucket_multiplier for histogram in program.metrics.histograms
            }
            for file in self._files.values():
                file.restore(multipliers)
        metrics: list[MetricRows] = [
            *(CounterRows(counter, pid, self._files["counter"].ledger) for counter in program.metrics.counters),
            *(HistogramRows(each, pid, self._files["histogram"].ledger) for each in program.metrics.histograms),
        ]
        self._tables: dict[str, list[MetricRows]] = {}
        for metric in metrics:
            self._tables.setdefault(metric.table, []).append(metric)
        self._is_first = True
        self._told: set[str] = set()

    def collect(self, read_table: ReadTable) -> CollectReport:
        """Read each table once, bring the files up to date; what `read_table` raises goes to the caller.

        `read_table` gives all rows of a table, or raises: raw key and number, for per-CPU maps the sum. A row that is
        left out counts as a key that was deleted.
        """
        tally = Tally()
        is_complete = True
        for table, metrics in self._tables.items():
            try:
                rows = read_table(table)
            except BlockingIOError as error:
                # Keys would seem to have been deleted that only were not met.
                is_complete = False
                self._tell_once(f"{error.strerror}; its metrics are shown as they were", tally)
                continue
            if len(metrics) > 1:
                rows = list(rows)
            for metric in metrics:
                metric.take(rows, tally)
        if self._is_first and not is_complete:
            # Without all that the maps hold, a predecessor's values cannot be gone on from: they stay in its files.
            return CollectReport(tally.decode_errors, tally.dropped, publish=False, messages=tuple(tally.messages))
        publish = self._is_first
        if self._is_first:
            self._is_first = False
            every_metric = chain.from_iterable(self._tables.values())
            map_keys = Counter(chain.from_iterable(metric.series_of_map_keys() for metric in every_metric))
            for file in self._files.values():
                file.ledger.settle(map_keys)
        for file in self._files.values():
            publish |= file.write(tally)
        return CollectReport(
            decode_errors=tally.decode_errors,
            dropped=tally.dropped,
            publish=publish,
            messages=tuple(tally.messages),
        )

    def _tell_once(self, message: str, tally: Tally) -> None:
        if message not in self._told:
            self._told.add(message)
            tally.messages.append(message)

    def close(self) -> None:
        """Let go of the files, which stay."""
        for file in self._files.values():
            file.close()


class _KindFile:
    """The metric file of one kind, and the ledger that it shows."""

    def __init__(self, path: Path, temporary: Path, group: int | None) -> None:
        self.ledger = Ledger()
        self._path = path
        self._temporary = temporary
        self._group = group
        self._file: MetricFile | None = None
        self._unsaid: list[str] = []
        self._said: set[str] = set()

    def restore(self, multipliers: Mapping[str, float]) -> None:
        """Take over the values of the file that is there; one that cannot be read counts as none."""
        try:
            self.ledger.restore(read_metric_file(self._path), multipliers)
        except MetricFileError as error:
            if self._path.exists():
                self._unsaid.append(f"{error}; totals start from what the maps hold")

    def write(self, tally: Tally) -> bool:
        """Make the file show the ledger; return whether that took a new file, which is to be published."""
        file = self._file
        # Before it is published it is at one of its two names, after that at the other.
        is_new = file is None or file.damaged() or not (file.is_at(self._path) or file.is_at(self._temporary))
        if file is None or is_new:
            self._file = file = self._renewed(tally)
        if file is not None:
            self._place(file, tally)
            for series in self.ledger.changed:
                if series.slot is not None:
                    file.store(series.slot, series.refresh_value(), float(series.total))
        self.ledger.changed.clear()
        tally.messages += self._unsaid
        self._unsaid.clear()
        return is_new and file is not None

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _renewed(self, tally: Tally) -> MetricFile | None:
        self.close()
        self.ledger.unplaced = list(self.ledger.sets)
        try:
            # This generation's own, if it was damaged before it was published.
            discard(str(self._temporary), None)
            return MetricFile.create(self._temporary, group=self._group)
        except (OSError, MetricFileError) as error:
            self._drop(self.ledger.unplaced, error, tally)
            return None

    def _place(self, file: MetricFile, tally: Tally) -> None:
        unplaced, placed = self.ledger.unplaced, 0
        try:
            for series_set in unplaced:
                slots = file.slots(series.key for series in series_set.members)
                for series, slot in zip(series_set.members, slots, strict=True):
                    series.slot = slot
                self.ledger.changed.update(series_set.members)
                series_set.is_dropped = False
                placed += 1
        except MetricFileError as error:
            self._drop(unplaced[placed:], error, tally)
        del unplaced[:placed]

    def _drop(self, sets: list[SeriesSet], error: Exception, tally: Tally) -> None:
        """Count what is not shown; it goes on being counted, and is placed as soon as that is possible."""
        for series_set in sets:
            for series in series_set.members:
                series.slot = None
        newly = [series_set for series_set in sets if not series_set.is_dropped]
        for series_set in newly:
            series_set.is_dropped = True
        if newly:
            tally.count_dropped("no_space" if isinstance(error, NoSpaceError) else "file", len(newly))
        self._say_once(f"{error}; series are missing")

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._unsaid.append(message)
