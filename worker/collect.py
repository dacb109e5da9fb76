"""From a target's maps and events to its metric files."""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.names import PREFIX
from ebpf_userspace_exporter.worker.bpf.maps import Rows
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.event_counts import CounterEvents
from ebpf_userspace_exporter.worker.file_names import (
    FOLDED_KINDS,
    KIND_OF_GAUGES,
    Kind,
    kinds_of,
    metric_file_name,
    temporary_file_name,
)
from ebpf_userspace_exporter.worker.gauge_rows import GaugeRows
from ebpf_userspace_exporter.worker.kind_file import KindFile
from ebpf_userspace_exporter.worker.map_rows import CountedRows, CounterRows, HistogramRows, MetricRows
from ebpf_userspace_exporter.worker.series import GaugeSeries, Ledger
from ebpf_userspace_exporter.worker.tally import Tally

ReadTable = Callable[[str], Rows]


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What came of one read of the maps; but for `series`, numbers are what is new since the one before.

    `decode_errors` are bad keys and events by metric; `dropped` are label sets by reason (`max_series`, `no_space`,
    `series_limit`), a histogram's buckets counting as one; `publish` asks to rename new files; `messages` are for the
    log, each said once. `series` is how many label sets are shown.
    """

    decode_errors: Mapping[str, int]
    dropped: Mapping[str, int]
    publish: bool
    messages: tuple[str, ...]
    series: int


class Collector:
    """Writes one target's counters, gauges and histograms. In the worker.

    Going on from a predecessor's files, if there are any and `inherit` says that they are of the same program on the
    same process. New files are this generation's temporary ones until the supervisor publishes them. `labels` are the
    target's, names and texts; `event_tables` the tables whose events come through `take_event`.
    """

    def __init__(
        self,
        program: Program,
        pid: int,
        directory: Path,
        *,
        labels: Sequence[tuple[str, str]],
        surroundings: Surroundings,
        generation: int,
        group: int | None,
        inherit: bool,
        event_tables: Collection[str] = (),
    ) -> None:
        self._files: dict[Kind, KindFile] = {
            kind: KindFile(
                directory / metric_file_name(kind, program.name, pid),
                directory / temporary_file_name(kind, program.name, pid, generation),
                group,
                Ledger() if kind in FOLDED_KINDS else Ledger(GaugeSeries),
            )
            for kind in kinds_of(program)
        }
        if inherit:
            self._restore(program)
        self._rows: dict[str, list[MetricRows]] = {}
        self._events: dict[str, list[CounterEvents]] = {}
        for counter in program.metrics.counters:
            ledger = self._files["counter"].ledger
            if counter.table in event_tables:
                events = CounterEvents(counter, labels, ledger, surroundings)
                self._events.setdefault(counter.table, []).append(events)
            else:
                self._add(CounterRows(counter, labels, ledger, surroundings))
        for gauge in program.metrics.gauges:
            self._add(GaugeRows(gauge, labels, self._files[KIND_OF_GAUGES[gauge.combine]].ledger, surroundings))
        for histogram in program.metrics.histograms:
            self._add(HistogramRows(histogram, labels, self._files["histogram"].ledger, surroundings))
        self._is_first = True
        self._is_unpublished = False
        self._max_series = sys.maxsize if inherit else -1  # a predecessor's share does not begin to grow again
        self._is_share_settled = False
        self._tally = Tally()
        self._told: set[str] = set()

    def take_event(self, table: str, event: bytes) -> None:
        """Count an event of one of the event tables; the files show it with the next `keep_events` or `collect`."""
        for counter in self._events.get(table, ()):
            counter.take(event, self._tally)

    def keep_events(self) -> None:
        """Write down the events that were taken: a successor, who cannot take them again, has them from the file."""
        if self._events and not self._is_first:
            self._admit()
            self._is_unpublished |= self._files["counter"].write(self._tally)

    def collect(self, read_table: ReadTable, max_series: int) -> CollectReport:
        """Read each table once, bring the files up to date; what `read_table` raises goes to the caller.

        `read_table` gives all rows of a table, or raises. A row that is left out counts as a key that was deleted.
        Label sets beyond `max_series` are not shown until there is room for them; what is shown already stays. They are
        counted as dropped once that does not grow any more.
        """
        is_complete = self._read(read_table)
        if self._is_first and not is_complete:
            # Without all that the maps hold, a predecessor's values cannot be gone on from: they stay in its files.
            return self._report(publish=False)
        publish, self._is_unpublished = self._is_first or self._is_unpublished, False
        if self._is_first:
            self._is_first = False
            self._settle()
        # While its share grows, what has no place yet will have one soon: of workers that start together the first is
        # offered nearly all there is, until it says that it has no use for it.
        self._is_share_settled = max_series <= self._max_series
        self._max_series = max_series
        self._admit()
        for file in self._files.values():
            publish |= file.write(self._tally)
        return self._report(publish=publish)

    def close(self) -> None:
        """Let go of the files, which stay."""
        for file in self._files.values():
            file.close()

    def _restore(self, program: Program) -> None:
        metrics = program.metrics
        multipliers = {f"{PREFIX}{counter.name}": counter.value_multiplier for counter in metrics.counters}
        multipliers |= {f"{PREFIX}{each.name}_sum": each.bucket_multiplier for each in metrics.histograms}
        for kind in FOLDED_KINDS:
            if kind in self._files:
                self._files[kind].restore(multipliers)

    def _add(self, rows: MetricRows) -> None:
        self._rows.setdefault(rows.table, []).append(rows)

    def _read(self, read_table: ReadTable) -> bool:
        """Take the rows of all tables; False if there is one that cannot be read now."""
        is_complete = True
        for table, metrics in self._rows.items():
            try:
                rows = read_table(table)
            except BlockingIOError as error:
                # Keys would seem to have been deleted that only were not met.
                is_complete = False
                self._tell_once(f"{error.strerror}; its metrics are shown as they were")
                continue
            for metric in metrics:
                metric.take(rows, self._tally)
        return is_complete

    def _settle(self) -> None:
        every_metric = chain.from_iterable(self._rows.values())
        counted = (metric for metric in every_metric if isinstance(metric, CountedRows))
        map_keys = Counter(chain.from_iterable(metric.series_of_map_keys() for metric in counted))
        for file in self._files.values():
            file.ledger.settle(map_keys)

    def _admit(self) -> None:
        for file in self._files.values():
            file.ledger.admit(self._max_series - self._shown())
            if self._is_share_settled and (dropped := file.ledger.drop_waiting()):
                self._tally.count_dropped("max_series", dropped)
                self._tell_once("more label sets than max_series allows; the others are not shown")

    def _shown(self) -> int:
        return sum(len(file.ledger.sets) for file in self._files.values())

    def _report(self, *, publish: bool) -> CollectReport:
        tally, self._tally = self._tally, Tally()
        return CollectReport(
            decode_errors=tally.decode_errors,
            dropped=tally.dropped,
            publish=publish,
            messages=tuple(tally.messages),
            series=self._shown(),
        )

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._tally.messages.append(message)
