"""Series, and how their totals outlive the map keys and the worker that they were read by.

A map's numbers are absolute, and so is what is written. But a BPF program may delete a key, an LRU map evict one, a
worker die between two reads, and still a counter must neither fall nor count anything twice. So each series has two
numbers: `counted`, which is everything ever counted, and `total`, which is what its map keys hold at present. They
differ by what keys held that are gone. The metric file keeps both, for the next worker.
"""

import json
import math
import sys
from collections import deque
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

from ebpf_userspace_exporter.worker.metric_file import MetricFileError, Place

# A map bounds how many keys there are at one time, but nothing how many different ones there are in a year.
MAX_SERIES = 100_000


class SeriesLimitError(Exception):
    """No more series are taken."""


@dataclass(slots=True, eq=False)
class Series:
    """One sample of a metric file; numbers are the map's own, `value` is the scaled one, as last written."""

    key: str
    multiplier: float = 1.0
    counted: int = 0
    total: int = 0
    value: float = 0.0
    slot: Place | None = None

    def refresh_value(self) -> float:
        """Return the value to write: never less than the one before, whatever scaling rounds."""
        value = self.counted * self.multiplier
        if value > self.value:
            self.value = min(value, sys.float_info.max)
        return self.value


@dataclass(slots=True, eq=False)
class GaugeSeries(Series):
    """One gauge: `counted` is its number at present, which may fall; there is no past, so `total` stays 0."""

    def refresh_value(self) -> float:
        """Return the value to write."""
        value = self.counted * self.multiplier
        self.value = max(-sys.float_info.max, min(value, sys.float_info.max)) + 0.0  # 0 times one below 0 is -0.0
        return self.value


@dataclass(slots=True, eq=False)
class SeriesSet:
    """Series that are written together or not at all: one counter or gauge, or a histogram's buckets and sum."""

    members: tuple[Series, ...]
    is_dropped: bool = False


def resumed(counted: int, last: float, total: int, map_keys: int) -> int:
    """Return what a series has counted by now, when its former worker left `counted` and `last`.

    `total` is what its `map_keys` hold now. If that is less than it was, a key was deleted and made again while no
    worker looked. With a single key all of it is new; with several, which of them it was cannot be known.
    """
    # `last` comes from a float64: compared as such, or a number above 2**53 would seem to have gone back.
    if float(total) >= last:
        return max(counted - int(last), 0) + total
    return counted + total if map_keys <= 1 else counted


@dataclass(slots=True)
class Ledger:
    """All series of one metric file, by key, in the order in which they came.

    `sets` are those that may be shown, `waiting` those beyond the limit on them: they go on being counted. `unplaced`
    are the ones of `sets` that have no place in the file yet, `changed` the series that the file may be behind of.
    `has_lost` says that the file shows series that are no more: it only ever grows, so a new one is needed.
    """

    series_class: type[Series] = Series
    sets: list[SeriesSet] = field(default_factory=list)
    waiting: deque[SeriesSet] = field(default_factory=deque)
    unplaced: list[SeriesSet] = field(default_factory=list)
    changed: set[Series] = field(default_factory=set)
    has_lost: bool = False
    _series: dict[str, Series] = field(default_factory=dict)
    _restored: dict[Series, float] = field(default_factory=dict)

    def obtain(self, key: str, make_set: Callable[[], Mapping[str, float]]) -> Series:
        """Return the series of this key; if it is new, with the set that it is in. SeriesLimitError."""
        series = self._series.get(key)
        if series is None:
            self.add(make_set())
            series = self._series[key]
        return series

    def add(self, keys: Mapping[str, float]) -> None:
        """Add one set of series, given their multipliers by key; those that are known stay. SeriesLimitError."""
        members = tuple(self.series_class(*item) for item in keys.items() if item[0] not in self._series)
        if not members:
            return
        if len(self._series) + len(members) > MAX_SERIES:
            raise SeriesLimitError(f"more than {MAX_SERIES} series")
        self._series.update((series.key, series) for series in members)
        self.waiting.append(SeriesSet(members))

    def admit(self, room: int) -> None:
        """Let up to `room` more sets be shown, first come first served."""
        for _ in range(min(room, len(self.waiting))):
            admitted = self.waiting.popleft()
            admitted.is_dropped = False
            self.sets.append(admitted)
            self.unplaced.append(admitted)

    def drop_waiting(self) -> int:
        """Return how many sets wait and have not been counted as dropped yet."""
        newly = 0
        for series_set in reversed(self.waiting):
            if series_set.is_dropped:
                break
            series_set.is_dropped = True
            newly += 1
        return newly

    def forget(self, gone: Set[Series]) -> None:
        """End these series, each of which is all of its set."""
        self.has_lost |= any(series.slot is not None for series in gone)
        for series in gone:
            del self._series[series.key]
        self.changed -= gone
        self.sets = [each for each in self.sets if each.members[0] not in gone]
        self.unplaced = [each for each in self.unplaced if each.members[0] not in gone]
        self.waiting = deque(each for each in self.waiting if each.members[0] not in gone)

    def restore(self, entries: Mapping[str, tuple[float, float]], multipliers: Mapping[str, float]) -> None:
        """Begin with what a former worker has written; `multipliers` are by sample name, 1 where there is none.

        MetricFileError if the entries are not such a file's, and then nothing is restored.
        """
        if len(entries) > MAX_SERIES:
            raise MetricFileError(f"{len(entries)} series, expected at most {MAX_SERIES}")
        sets: dict[str, dict[str, float]] = {}
        for key, (value, last) in entries.items():
            sample, set_name = _names(key)
            multiplier = multipliers.get(sample, 1.0)
            if not (0 <= value < math.inf and 0 <= last < math.inf and value / multiplier < math.inf):
                raise MetricFileError(f"{sample}: {value} from {last}, expected finite positive numbers")
            sets.setdefault(set_name, {})[key] = multiplier
        for keys in sets.values():
            self.add(keys)
        self.admit(len(self.waiting))  # what was shown stays
        for key, (value, last) in entries.items():
            series = self._series[key]
            same = last * series.multiplier == value  # and then nothing is rounded
            series.counted = int(last) if same else round(value / series.multiplier)
            series.value = value
            self._restored[series] = last

    def settle(self, map_keys: Mapping[Series, int]) -> None:
        """After the first read: join what was restored and what the maps hold, given how many keys each series has."""
        for series, last in self._restored.items():
            before = series.counted - series.total
            series.counted = resumed(before, last, series.total, map_keys.get(series, 0))
        self._restored.clear()


def _names(key: str) -> tuple[str, str]:
    """Return a key's sample name, and what the keys of its set have in common."""
    try:
        family, sample, labels, _ = json.loads(key)
        labels.pop("le", None)
        return str(sample), json.dumps([family, labels])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MetricFileError(f"{key[:200]!r} is not the key of a series") from error
