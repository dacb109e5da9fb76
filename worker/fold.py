"""Adds up the metric files of targets that are gone, so that the totals outlive them in one file a program.

Only where targets are not told apart by their labels: there a sum would fall when one of those summed goes.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ebpf_userspace_exporter.config.model import Counter, Histogram, Program
from ebpf_userspace_exporter.config.names import PREFIX, family_of
from ebpf_userspace_exporter.config.target_labels import target_labels
from ebpf_userspace_exporter.worker.file_names import FOLDED_KINDS, folded_file_name, retired_file_name
from ebpf_userspace_exporter.worker.histograms import buckets_of
from ebpf_userspace_exporter.worker.metric_file import MetricFile, MetricFileError, metric_key, read_metric_file

Totals = dict[str, float]


@dataclass(frozen=True, slots=True)
class FoldReport:
    """How many label sets the folded files hold, a histogram's buckets counting as one, and what could not be read."""

    series: int
    unreadable: tuple[str, ...]


def fold(
    program: Program,
    directory: Path,
    retired: Sequence[int],
    generation: int,
    group: int | None,
    *,
    has_changed: bool = True,
) -> FoldReport:
    """Write what the program's folded files and the retired ones hold together, as files that nobody reads yet.

    Series that the program does not have any more are left out where it `has_changed`: not while targets of its former
    definition still count in them. In a child of the supervisor, which puts the new files in the old ones' place and
    removes the retired ones in one step. MetricFileError.
    """
    shape = _Shape(program)
    series, unreadable = 0, []
    for kind in FOLDED_KINDS:
        totals: Totals = {}
        names = [folded_file_name(kind, program.name), *(retired_file_name(kind, program.name, n) for n in retired)]
        for name in names:
            path = directory / name
            try:
                if path.exists():
                    # Each for itself: what a former definition had other bounds for is not in the present one's way.
                    found = _totals_in(path)
                    _add(totals, shape.kept(found) if has_changed else found)
            except MetricFileError as error:
                unreadable.append(str(error))
        series += len({_set_of(family, labels) for family, _, labels, _ in map(json.loads, totals)})
        if totals:
            _write(directory / f"{names[0]}.{generation}.tmp", totals, group)
    return FoldReport(series, tuple(unreadable))


@dataclass(frozen=True, slots=True)
class _Series:
    """What a metric's series look like: the names of their labels in order, their help, a histogram's bounds."""

    labels: tuple[str, ...]
    help: str
    bounds: frozenset[str]


@dataclass(slots=True)
class _Shape:
    """What series a program has."""

    program: Program
    _by_family: dict[str, _Series] = field(default_factory=dict)

    def __post_init__(self) -> None:
        targets = tuple(target_labels(self.program))
        for counter in self.program.metrics.counters:
            family = PREFIX + family_of(counter.name, "counter")
            self._by_family[family] = _Series(_names(counter) + targets, counter.help, frozenset())
        for histogram in self.program.metrics.histograms:
            bounds = frozenset({*buckets_of(histogram).bounds.values(), "+Inf"})
            self._by_family[PREFIX + histogram.name] = _Series(_names(histogram)[:-1] + targets, histogram.help, bounds)

    def kept(self, totals: Mapping[str, float]) -> Totals:
        """Return the totals of series that the program still has, under its present help."""
        bounds: dict[str, set[str]] = {}
        found = []
        for key, value in totals.items():
            family, sample, labels, _ = json.loads(key)
            of_set = bounds.setdefault(_set_of(family, labels), set())
            if "le" in labels:
                of_set.add(labels["le"])
            found.append((family, sample, labels, value, of_set))
        kept: Totals = {}
        for family, sample, labels, value, of_set in found:
            series = self._by_family.get(family)
            names = tuple(name for name in labels if name != "le" or series is None or not series.bounds)
            if series and names == series.labels and of_set == series.bounds:
                _add(kept, {metric_key(family, sample, list(labels.items()), series.help): value})
        return kept


def _names(metric: Counter | Histogram) -> tuple[str, ...]:
    return tuple(label.name for label in metric.labels)


def _set_of(family: str, labels: Mapping[str, str]) -> str:
    """Return what the keys of one counter, or of one histogram, have in common."""
    return json.dumps([family, {name: text for name, text in labels.items() if name != "le"}])


def _totals_in(path: Path) -> Totals:
    """Return what a file holds; MetricFileError also for what no reader would show, and would spoil a sum."""
    totals: Totals = {}
    for key, (value, _) in read_metric_file(path).items():
        try:
            family, sample, labels, _ = json.loads(key)
            is_good = isinstance(family, str) and isinstance(sample, str) and isinstance(labels, dict)
        except (ValueError, TypeError, RecursionError):
            is_good = False
        if not is_good or not 0 <= value < math.inf:
            raise MetricFileError(f"{path.name}: {key[:200]!r} is no series, or {value} no total")
        totals[key] = value
    return totals


def _add(totals: Totals, more: Mapping[str, float]) -> None:
    for key, value in more.items():
        totals[key] = _sum_rounded_up(totals.get(key, 0.0), value)


def _sum_rounded_up(one: float, other: float) -> float:
    """Return the sum, not less than it is: what was shown of the two apart must not fall when they are one."""
    total = one + other
    if math.isinf(total):
        return sys.float_info.max
    return math.nextafter(total, math.inf) if math.fsum((one, other, -total)) > 0 else total


def _write(path: Path, totals: Mapping[str, float], group: int | None) -> None:
    file = MetricFile.create(path, group=group)
    try:
        file.store(file.slots(totals), totals.values(), [0.0] * len(totals))
    finally:
        file.close()
