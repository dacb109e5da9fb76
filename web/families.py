"""Merges metric files into families of samples: equal labels are combined, a contradicting file is left out whole."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.utils import floatToGoString

from ebpf_userspace_exporter.web.metric_files import Combine, Entry, Kind, MetricFile, MetricFileError

Labels = tuple[tuple[str, str], ...]

# The library is typed but for this function.
format_value: Callable[[float], str] = floatToGoString


def _exact_sum(values: Iterable[float]) -> float:
    """Return the sum, rounded once: one that depended on the files' order would fall when a file gets another name.

    What falls by the least bit is a counter that began anew, to Prometheus.
    """
    values = list(values)
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # beyond the largest number, or of both infinities
        return sum(values)


_COMBINED: Mapping[Combine, Callable[[Iterable[float]], float]] = {
    Combine.SUM: _exact_sum,
    Combine.MAX: max,
    Combine.MIN: min,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One exposed line: name, labels in their order, value."""

    name: str
    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """What one metric exposes; `name` is the name as configured, a counter's `_total` included."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


def exposed_names(name: str, kind: Kind) -> tuple[str, ...]:
    """Return every sample name that belongs to a metric, so that no two metrics expose the same."""
    if kind is Kind.HISTOGRAM:
        return (name, f"{name}_bucket", f"{name}_count", f"{name}_sum", f"{name}_created")
    return (name,)


class Merge:
    """The families of all files added so far."""

    def __init__(self, reserved: Collection[str] = ()) -> None:
        self._metrics: dict[str, _Metric] = {}
        self._owners: dict[str, str] = dict.fromkeys(reserved, "")

    def add(self, file: MetricFile) -> None:
        """Add a file's values, or, with MetricFileError, none: where it contradicts a file added before.

        Contradicting means a name that is another metric's, of another kind, or combined in another way. Another help
        text is no contradiction: after a reload the files of targets that ended may still hold the old one; the first
        text is shown.
        """
        owners = self._owners_with(file)
        self._owners = owners
        for entry in file.entries:
            name = _exposed_name(entry, file.kind)
            metric = self._metrics.get(name)
            if metric is None:
                metric = self._metrics[name] = _Metric(file.kind, file.combine, entry.help)
            metric.add(entry)

    def families(self) -> list[Family]:
        """Return the families sorted by name, their series by label values."""
        return [
            Family(name, metric.kind, metric.help, tuple(metric.samples(name)))
            for name, metric in sorted(self._metrics.items())
        ]

    def _owners_with(self, file: MetricFile) -> dict[str, str]:
        owners = dict(self._owners)
        for name in dict.fromkeys(_exposed_name(entry, file.kind) for entry in file.entries):
            known = self._metrics.get(name)
            if known is not None and known.kind is not file.kind:
                raise MetricFileError(f"{name} is a {known.kind.value} in another file")
            if known is not None and known.combine is not file.combine:
                raise MetricFileError(f"{name} is combined by {known.combine.value} in another file")
            for exposed in exposed_names(name, file.kind):
                if owners.setdefault(exposed, name) != name:
                    raise MetricFileError(f"{exposed} belongs to another metric")
        return owners


def restrict(families: Iterable[Family], names: Collection[str]) -> list[Family]:
    """Return the families of these names, and of the others the samples of these names; no empty family."""
    restricted = []
    for family in families:
        samples = family.samples
        if family.name not in names:
            samples = tuple(sample for sample in samples if sample.name in names)
        if samples:
            restricted.append(Family(family.name, family.kind, family.help, samples))
    return restricted


def _exposed_name(entry: Entry, kind: Kind) -> str:
    # A counter's family is its name without `_total`, and both `x` and `x_total` may exist: the sample tells.
    return entry.family if kind is Kind.HISTOGRAM else entry.sample


@dataclass(slots=True)
class _Series:
    labels: Labels
    values: list[float] = field(default_factory=list)
    buckets: dict[float, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Metric:
    kind: Kind
    combine: Combine
    help: str
    series: dict[Labels, _Series] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        # Sorted: files may write the same labels in another order, and exposing a series twice fails the scrape.
        identity = tuple(sorted(entry.labels))
        series = self.series.get(identity)
        if series is None:
            series = self.series[identity] = _Series(entry.labels)
        if entry.upper_bound is not None:
            series.buckets[entry.upper_bound] = series.buckets.get(entry.upper_bound, 0.0) + entry.value
        else:
            series.values.append(entry.value)

    def samples(self, name: str) -> Iterator[Sample]:
        combined = _COMBINED[self.combine]
        for series in sorted(self.series.values(), key=lambda series: series.labels):
            if self.kind is not Kind.HISTOGRAM:
                yield Sample(name, series.labels, combined(series.values))
            elif series.values and math.inf in series.buckets:
                yield from _histogram_samples(name, series, combined(series.values))
            # Else a writer was adding this series while we read: keys come one by one. The next scrape has it.


def _histogram_samples(name: str, series: _Series, total: float) -> Iterator[Sample]:
    """Yield cumulative buckets, `le` last as client_golang writes it, then sum and count."""
    count = 0.0
    for upper_bound, own_count in sorted(series.buckets.items()):
        count += own_count
        yield Sample(f"{name}_bucket", (*series.labels, ("le", format_value(upper_bound))), count)
    yield Sample(f"{name}_sum", series.labels, total)
    yield Sample(f"{name}_count", series.labels, count)
