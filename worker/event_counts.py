"""Counters whose table has no rows, but events that are counted as they arrive."""

from typing import Final

from ebpf_userspace_exporter.config.model import Counter
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.keyed_series import KeyedSeries, TargetLabels, counter_key
from ebpf_userspace_exporter.worker.series import Ledger, Series
from ebpf_userspace_exporter.worker.tally import Tally

MAX_REMEMBERED: Final = 4096


class CounterEvents(KeyedSeries):
    """A counter of events: each counts one on the series of its first bytes; what follows the labels is not looked at.

    A series' `total`, which elsewhere is what the map's keys hold, stays 0: a successor finds all in `counted`.
    """

    def __init__(self, counter: Counter, labels: TargetLabels, ledger: Ledger, surroundings: Surroundings) -> None:
        super().__init__(counter, labels, ledger, surroundings, series_labels=counter.labels)
        self._counter = counter
        self._series: dict[bytes, Series] = {}

    def take(self, event: bytes, tally: Tally) -> None:
        """Count one event, or what is wrong with it."""
        raw = event[: self._layout.key_bytes]
        series = self._series.get(raw)
        if series is None:
            series = self._find(raw, tally)
            if series is None:
                return
            if len(self._series) >= MAX_REMEMBERED:
                self._series.clear()
            self._series[raw] = series
        series.counted += 1
        self._ledger.changed.add(series)

    def _series_of(self, raw: bytes) -> Series:
        key = counter_key(self._counter, self._labels(self._layout.texts(raw)))
        return self._ledger.obtain(key, lambda: {key: self._counter.value_multiplier})
