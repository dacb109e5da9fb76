"""Metrics as Prometheus will see them together: names that mean one thing, wherever they are used."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ebpf_userspace_exporter.config.buckets import MAX_BUCKETS, upper_bounds
from ebpf_userspace_exporter.config.errors import KeyPath, path_text, quote
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.model import Combine, Config, Histogram, Label
from ebpf_userspace_exporter.config.names import PREFIX, MetricKind, claimed_names, own_metric_with


@dataclass(frozen=True, slots=True)
class _Exposed:
    """A metric as it is exposed, and where it is configured; labels are without the bucket."""

    path: KeyPath
    kind: MetricKind
    name: str
    help: str
    labels: tuple[str, ...]
    target_labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()
    combine: Combine | None = None


def check_metric_names(config: Config, target_labels: Sequence[Iterable[str]], findings: Findings) -> None:
    """Record names that collide, and equal names that mean different things; `target_labels` are each program's."""
    first: dict[str, _Exposed] = {}
    claims: dict[str, _Exposed] = {}
    for metric in _exposed(config, target_labels):
        name_path = (*metric.path, "name")
        claimed = claimed_names(metric.name, metric.kind)
        own = own_metric_with(claimed)
        if own is not None:
            findings.problem(name_path, f"{quote(metric.name)} collides with the exporter's own {PREFIX}{own}")
        elif metric.name in first:
            _compare(metric, first[metric.name], findings)
        else:
            first[metric.name] = metric
            for claim in sorted(claimed):
                if claim in claims and claims[claim].name != metric.name:
                    _report_collision(metric, claims[claim], claim, findings)
                    break
            for claim in claimed:
                claims.setdefault(claim, metric)


def _report_collision(metric: _Exposed, other: _Exposed, claim: str, findings: Findings) -> None:
    message = (
        f"{quote(metric.name)} collides with the {other.kind} {quote(other.name)} "
        f"at {path_text(other.path)}: both use {PREFIX}{claim}"
    )
    findings.problem((*metric.path, "name"), message, (*metric.path, "name"), (*other.path, "name"))


def _compare(metric: _Exposed, other: _Exposed, findings: Findings) -> None:
    names = ((*metric.path, "name"), (*other.path, "name"))
    where = path_text(other.path)
    if metric.path[:2] == other.path[:2]:
        findings.problem(names[0], f"a second metric named {quote(metric.name)} in one program, after {where}", *names)
        return
    if metric.kind != other.kind:
        message = f"{quote(metric.name)} is a {metric.kind} here and a {other.kind} at {where}"
        findings.problem(names[0], message, *names)
        return
    for key, here, there in (
        ("help", quote(metric.help), quote(other.help)),
        ("labels", _listed(metric.labels), _listed(other.labels)),
        ("combine", str(metric.combine), str(other.combine)),
    ):
        if here != there:
            message = f"expected the {key} that {quote(metric.name)} has at {where}, {there}, got {here}"
            findings.problem((*metric.path, key), message, (*metric.path, key), (*other.path, key), *names)
    if metric.target_labels != other.target_labels:
        here, there = _listed(metric.target_labels), _listed(other.target_labels)
        message = f"expected the target labels that {quote(metric.name)} has at {where}, {there}, got {here}"
        findings.problem((*metric.path[:2], "target_labels"), message, *_label_sources(metric, other), *names)
    if metric.bounds != other.bounds:
        message = f"expected the buckets that {quote(metric.name)} has at {where}"
        findings.problem((*metric.path, "bucket_type"), message, metric.path, other.path)


def _label_sources(*metrics: _Exposed) -> Iterator[KeyPath]:
    return ((*metric.path[:2], key) for metric in metrics for key in ("target_labels", "attachment"))


def _listed(labels: tuple[str, ...]) -> str:
    return f"({', '.join(map(quote, labels))})"


def _exposed(config: Config, target_labels: Sequence[Iterable[str]]) -> Iterator[_Exposed]:
    for index, (program, of_targets) in enumerate(zip(config.programs, target_labels, strict=True)):
        metrics, path, with_targets = program.metrics, ("programs", index, "metrics"), tuple(of_targets)
        for number, counter in enumerate(metrics.counters):
            where, labels = (*path, "counters", number), _names(counter.labels)
            yield _Exposed(where, "counter", counter.name, counter.help, labels, with_targets)
        for number, gauge in enumerate(metrics.gauges):
            where, labels = (*path, "gauges", number), _names(gauge.labels)
            yield _Exposed(where, "gauge", gauge.name, gauge.help, labels, with_targets, combine=gauge.combine)
        for number, histogram in enumerate(metrics.histograms):
            where, labels = (*path, "histograms", number), _names(histogram.labels[:-1])
            bounds = _bounds_of(histogram)
            yield _Exposed(where, "histogram", histogram.name, histogram.help, labels, with_targets, bounds)


def _names(labels: tuple[Label, ...]) -> tuple[str, ...]:
    return tuple(label.name for label in labels)


def _bounds_of(histogram: Histogram) -> tuple[float, ...]:
    """Return what can be compared: none where there are too many, or too large ones, which is reported elsewhere."""
    if histogram.bucket_max - histogram.bucket_min >= MAX_BUCKETS:
        return ()
    try:
        return upper_bounds(histogram)
    except OverflowError:
        return ()
