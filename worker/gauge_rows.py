"""From the rows of a map to gauges: what the map holds now, without a past."""

import operator
from collections.abc import Callable, Mapping

from ebpf_userspace_exporter.config.model import Combine, Gauge
from ebpf_userspace_exporter.config.names import PREFIX
from ebpf_userspace_exporter.worker.bpf.maps import Rows
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.keyed_series import TargetLabels
from ebpf_userspace_exporter.worker.map_rows import MetricRows
from ebpf_userspace_exporter.worker.metric_file import metric_key
from ebpf_userspace_exporter.worker.series import Ledger, Series
from ebpf_userspace_exporter.worker.tally import Tally

_COMBINED: Mapping[Combine, Callable[[int, int], int]] = {
    Combine.SUM: operator.add,
    Combine.MAX: max,
    Combine.MIN: min,
}
_OPPOSITE = {Combine.SUM: Combine.SUM, Combine.MAX: Combine.MIN, Combine.MIN: Combine.MAX}


class GaugeRows(MetricRows):
    """A gauge: one series for each combination of labels that the map has a row of; it ends with the last such row."""

    def __init__(self, gauge: Gauge, labels: TargetLabels, ledger: Ledger, surroundings: Surroundings) -> None:
        super().__init__(gauge, labels, ledger, surroundings, series_labels=gauge.labels)
        self._multiplier = gauge.value_multiplier
        # Numbers are combined, but the largest value is asked for: with a multiplier below 0 the smallest number.
        combine = gauge.combine if gauge.value_multiplier > 0 else _OPPOSITE[gauge.combine]
        self._combined = _COMBINED[combine]
        self._series_by_key: dict[bytes, Series | None] = {}

    def _take(self, rows: Rows, tally: Tally) -> None:
        """Make the series what the map's rows are."""
        known, self._series_by_key = self._series_by_key, {}
        numbers: dict[Series, int] = {}
        for raw, number in zip(self._raw_keys(rows), self._numbers(rows), strict=True):
            series = known[raw] if raw in known else self._find(raw, tally)
            self._series_by_key[raw] = series
            if series is not None:
                numbers[series] = self._combined(numbers[series], number) if series in numbers else number
        for series, number in numbers.items():
            if series.counted != number:
                series.counted = number
                self._ledger.changed.add(series)
        missing = map(known.get, known.keys() - self._series_by_key.keys())
        gone = {series for series in missing if series is not None and series not in numbers}
        if gone:
            self._ledger.forget(gone)

    def _series_of(self, raw: bytes) -> Series:
        name = PREFIX + self._metric.name
        key = metric_key(name, name, self._labels(self._layout.texts(raw)), self._metric.help)
        return self._ledger.obtain(key, lambda: {key: self._multiplier})
