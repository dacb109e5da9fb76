"""From the rows of a map to the series that they belong to."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain

from ebpf_userspace_exporter.config.model import Counter, Histogram, Label
from ebpf_userspace_exporter.config.names import PREFIX
from ebpf_userspace_exporter.worker.bpf.maps import Rows, possible_cpu_numbers
from ebpf_userspace_exporter.worker.bpf.values import ValueReader
from ebpf_userspace_exporter.worker.decoders import DecodeError
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.histograms import buckets_of
from ebpf_userspace_exporter.worker.key_layout import cpu_suffix
from ebpf_userspace_exporter.worker.keyed_series import KeyedSeries, TargetLabels, counter_key
from ebpf_userspace_exporter.worker.metric_file import metric_key
from ebpf_userspace_exporter.worker.series import Ledger, Series
from ebpf_userspace_exporter.worker.tally import Tally


class MetricRows(KeyedSeries):
    """The rows of one metric's map. Each key is decoded once, as long as the map has it."""

    _reader: ValueReader | None = None
    _taken: Rows | None = None

    def take(self, rows: Rows, tally: Tally) -> None:
        """Bring the series up to date with all rows of the map; the very rows of the last time say nothing new."""
        if rows is not self._taken:
            self._take(rows, tally)
            self._taken = rows

    @abstractmethod
    def _take(self, rows: Rows, tally: Tally) -> None: ...

    def _raw_keys(self, rows: Rows) -> list[bytes]:
        """Return the key of each row, or where CPUs are told apart, of each CPU's share of it."""
        if not self._layout.is_split:
            return rows.keys
        suffixes = list(map(cpu_suffix, possible_cpu_numbers()))
        return [raw + suffix for raw in rows.keys for suffix in suffixes]

    def _numbers(self, rows: Rows) -> Iterable[int]:
        """Return the number of each row, or where CPUs are told apart, of each CPU's share of it."""
        reader = self._reader
        if reader is None:
            reader = self._reader = self._reader_of(rows)
        return chain.from_iterable(reader.shares(rows)) if self._layout.is_split else reader.totals(rows)

    def _reader_of(self, rows: Rows) -> ValueReader:
        metric = self._metric
        if isinstance(metric, Histogram):
            return ValueReader(rows.shape)
        return ValueReader(rows.shape, metric.value_offset, metric.value_type)


@dataclass(slots=True, eq=False)
class _Row:
    """A map's key as it was last read; its series is None if the key is bad or not wanted."""

    series: Series | None
    last: int = 0


class CountedRows(MetricRows):
    """Rows whose numbers grow: what a row had counted that went back, or is gone, stays its series'."""

    def __init__(
        self,
        metric: Counter | Histogram,
        labels: TargetLabels,
        ledger: Ledger,
        surroundings: Surroundings,
        *,
        series_labels: Sequence[Label],
    ) -> None:
        super().__init__(metric, labels, ledger, surroundings, series_labels=series_labels)
        self._rows: dict[bytes, _Row] = {}
        self._raws: list[bytes] = []
        self._in_order: list[_Row | None] = []  # of these keys; None for one that is not known yet
        # A BPF_HISTOGRAM is an array: it has rows for keys that no event ever had, also beyond the last bucket. And
        # a row has a share for CPUs that the machine could have, of which there may be hundreds.
        self._skips_zeros = isinstance(metric, Histogram) or self._layout.is_split

    def _take(self, rows: Rows, tally: Tally) -> None:
        """Add to the series what the rows have more than at the last read."""
        changed = self._ledger.changed
        raws = self._raw_keys(rows)
        if raws is not self._raws:
            self._raws, self._in_order = raws, list(map(self._rows.get, raws))
            if len(raws) - self._in_order.count(None) != len(self._rows):
                self._forget(self._rows.keys() - set(raws))
        for place, (known, number) in enumerate(zip(self._in_order, self._numbers(rows), strict=True)):
            row = known
            if row is None:
                if not number and self._skips_zeros:
                    continue
                row = self._in_order[place] = self._rows[raws[place]] = _Row(self._find(raws[place], tally))
            if number == row.last:
                continue
            growth, row.last = number - row.last, number
            series = row.series
            if series is not None:
                series.total += growth
                # A number that went back belongs to a key that was deleted and made again.
                series.counted += growth if growth > 0 else number
                changed.add(series)

    def series_of_map_keys(self) -> Iterator[Series]:
        """Yield each map key's series, one that has several keys as often."""
        return (row.series for row in self._rows.values() if row.series is not None)

    def _forget(self, absent: Set[bytes]) -> None:
        for raw in absent:
            row = self._rows.pop(raw)
            if row.series is not None:
                row.series.total -= row.last
                self._ledger.changed.add(row.series)


class CounterRows(CountedRows):
    """A counter: one series for each combination of labels. Of a signed value, what is below 0 counts as 0.

    Without labels it has one series, from the start and whatever the map's keys are.
    """

    def __init__(self, counter: Counter, labels: TargetLabels, ledger: Ledger, surroundings: Surroundings) -> None:
        super().__init__(counter, labels, ledger, surroundings, series_labels=counter.labels)
        self._counter = counter
        if not counter.labels:
            ledger.add({counter_key(counter, labels): counter.value_multiplier})

    def _numbers(self, rows: Rows) -> Iterable[int]:
        numbers = super()._numbers(rows)
        if self._counter.value_type is None or not self._counter.value_type.is_signed:
            return numbers
        return (max(number, 0) for number in numbers)

    def _series_of(self, raw: bytes) -> Series:
        key = counter_key(self._counter, self._labels(self._layout.texts(raw)))
        return self._ledger.obtain(key, lambda: {key: self._counter.value_multiplier})


class HistogramRows(CountedRows):
    """A histogram: buckets and sum for each combination of labels, but for the last label, which is the bucket.

    All buckets are there as soon as one is; without other labels, from the start.
    """

    def __init__(self, histogram: Histogram, labels: TargetLabels, ledger: Ledger, surroundings: Surroundings) -> None:
        super().__init__(histogram, labels, ledger, surroundings, series_labels=histogram.labels[:-1])
        self._family = PREFIX + histogram.name
        self._buckets = buckets_of(histogram)
        self._multiplier = histogram.bucket_multiplier
        if len(histogram.labels) == 1:
            ledger.add(self._set_of([]))

    def _series_of(self, raw: bytes) -> Series:
        *texts, bucket = self._layout.texts(raw)
        map_key = float(bucket)  # digits: the config has made sure that uint decoded it
        if map_key == self._buckets.sum_key:
            key = self._sum_key_of(texts)
        elif map_key in self._buckets.bounds:
            key = self._bucket_key_of(texts, self._buckets.bounds[map_key])
        else:
            raise DecodeError("bucket", raw, f"the key of a bucket, or {self._buckets.sum_key:g} for the sum")
        return self._ledger.obtain(key, lambda: self._set_of(texts))

    def _set_of(self, texts: list[str]) -> dict[str, float]:
        keys = {self._bucket_key_of(texts, bound): 1.0 for bound in (*self._buckets.bounds.values(), "+Inf")}
        return {**keys, self._sum_key_of(texts): self._multiplier}

    def _bucket_key_of(self, texts: list[str], bound: str) -> str:
        labels = [*self._labels(texts), ("le", bound)]
        return metric_key(self._family, f"{self._family}_bucket", labels, self._metric.help)

    def _sum_key_of(self, texts: list[str]) -> str:
        return metric_key(self._family, f"{self._family}_sum", self._labels(texts), self._metric.help)
