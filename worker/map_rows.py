"""From the rows of a map to the series that they belong to."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ebpf_userspace_exporter.config.model import Counter, Histogram, Label
from ebpf_userspace_exporter.config.names import PREFIX, family_of
from ebpf_userspace_exporter.worker.decoders import Decode, DecodeError, RowSkipped, label_decoder
from ebpf_userspace_exporter.worker.histograms import buckets_of
from ebpf_userspace_exporter.worker.metric_file import metric_key
from ebpf_userspace_exporter.worker.series import Ledger, Series, SeriesLimitError


@dataclass(slots=True)
class Tally:
    """What went wrong in one read of the maps: numbers by metric and by reason, and words for the log."""

    decode_errors: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def count_decode_error(self, metric: str) -> None:
        """Count one bad key of a metric."""
        self.decode_errors[metric] = self.decode_errors.get(metric, 0) + 1

    def count_dropped(self, reason: str, number: int = 1) -> None:
        """Count series that there is no place for."""
        self.dropped[reason] = self.dropped.get(reason, 0) + number


@dataclass(slots=True, eq=False)
class _Row:
    """A map's key as it was last read; its series is None if the key is bad or not wanted."""

    series: Series | None
    last: int = 0
    read: int = 0


class MetricRows(ABC):
    """The rows of one metric's map. Each key is decoded once, as long as the map has it."""

    _skips_zeros = False

    def __init__(
        self, metric: Counter | Histogram, pid: int, ledger: Ledger, *, series_labels: Sequence[Label]
    ) -> None:
        self.table = metric.table
        self._metric = metric
        self._ledger = ledger
        self._names = [*(label.name for label in series_labels), "pid"]
        self._pid = str(pid)
        self._layout = _KeyLayout(metric.labels)
        self._rows: dict[bytes, _Row] = {}
        self._reads = 0
        self._told: set[str] = set()

    def take(self, rows: Iterable[tuple[bytes, int]], tally: Tally) -> None:
        """Bring the series up to date with all rows of the map: key and number, for per-CPU maps the sum."""
        known, changed = self._rows, self._ledger.changed
        self._reads = read = self._reads + 1
        present = 0
        for raw, number in rows:
            row = known.get(raw)
            if row is None:
                if not number and self._skips_zeros:
                    continue
                row = known[raw] = _Row(self._admit(raw, tally))
            if row.read != read:
                row.read = read
                present += 1
            if number == row.last:
                continue
            growth, row.last = number - row.last, number
            series = row.series
            if series is not None:
                series.total += growth
                # A number that went back belongs to a key that was deleted and made again.
                series.counted += growth if growth > 0 else number
                changed.add(series)
        if present != len(known):
            self._forget_absent(read)

    def series_of_map_keys(self) -> Iterator[Series]:
        """Yield each map key's series, one that has several keys as often."""
        return (row.series for row in self._rows.values() if row.series is not None)

    @abstractmethod
    def _series_of(self, raw: bytes) -> Series:
        """Return the series of a map's key, a new one if need be."""

    def _labels(self, texts: Sequence[str]) -> list[tuple[str, str]]:
        return list(zip(self._names, [*texts, self._pid], strict=True))

    def _admit(self, raw: bytes, tally: Tally) -> Series | None:
        name = self._metric.name
        try:
            return self._series_of(raw)
        except RowSkipped:
            return None
        except DecodeError as error:
            tally.count_decode_error(name)
            self._tell_once("decode", f"{name}: {error}", tally)
        except SeriesLimitError as error:
            tally.count_dropped("series_limit")
            self._tell_once("limit", f"{name}: {error}", tally)
        return None

    def _tell_once(self, topic: str, message: str, tally: Tally) -> None:
        if topic not in self._told:
            self._told.add(topic)
            tally.messages.append(message)

    def _forget_absent(self, read: int) -> None:
        for raw, row in [(raw, row) for raw, row in self._rows.items() if row.read != read]:
            del self._rows[raw]
            if row.series is not None:
                row.series.total -= row.last
                self._ledger.changed.add(row.series)


class CounterRows(MetricRows):
    """A counter: one series for each combination of labels.

    Without labels it has one series, from the start and whatever the map's keys are.
    """

    def __init__(self, counter: Counter, pid: int, ledger: Ledger) -> None:
        super().__init__(counter, pid, ledger, series_labels=counter.labels)
        self._family = PREFIX + family_of(counter.name, "counter")
        self._sample = PREFIX + counter.name
        if not counter.labels:
            ledger.add({self._key_of([]): 1.0})

    def _series_of(self, raw: bytes) -> Series:
        key = self._key_of(self._layout.texts(raw))
        return self._ledger.obtain(key, lambda: {key: 1.0})

    def _key_of(self, texts: list[str]) -> str:
        return metric_key(self._family, self._sample, self._labels(texts), self._metric.help)


class HistogramRows(MetricRows):
    """A histogram: buckets and sum for each combination of labels, but for the last label, which is the bucket.

    All buckets are there as soon as one is; without other labels, from the start.
    """

    # A BPF_HISTOGRAM is an array: it has rows for keys that no event ever had, also beyond the last bucket.
    _skips_zeros = True

    def __init__(self, histogram: Histogram, pid: int, ledger: Ledger) -> None:
        super().__init__(histogram, pid, ledger, series_labels=histogram.labels[:-1])
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


class _KeyLayout:
    """Where each label's bytes are in a map's key."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self._parts: list[tuple[slice, Decode]] = []
        self._key_bytes = 0
        for label in labels:
            end = self._key_bytes + label.size
            self._parts.append((slice(self._key_bytes, end), label_decoder(label)))
            self._key_bytes = end + label.padding

    def texts(self, raw: bytes) -> list[str]:
        """Return the labels' texts; DecodeError and RowSkipped as the decoders say, or if the key has another size."""
        if self._parts and len(raw) != self._key_bytes:
            raise DecodeError("key", raw, f"{self._key_bytes} bytes")
        return [decode(raw[part]) for part, decode in self._parts]
