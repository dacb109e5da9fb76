"""Metrics as Prometheus will see them: buckets that rise, and names that mean one thing."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from ebpf_userspace_exporter.config.buckets import MAX_BUCKETS, upper_bounds
from ebpf_userspace_exporter.config.errors import KeyPath, path_text, quote
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.model import BucketType, Config, Histogram
from ebpf_userspace_exporter.config.names import PREFIX, MetricKind, claimed_names, own_metric_with

_DYNAMIC_FIELDS = ("bucket_min", "bucket_max")


def check_histogram(histogram: Histogram, path: KeyPath, findings: Findings) -> None:
    """Record what is wrong with a histogram's buckets."""
    relied = [(*path, name) for name in ("bucket_type", "bucket_multiplier", "bucket_keys", *_DYNAMIC_FIELDS)]
    if not histogram.labels:
        findings.problem((*path, "labels"), "is empty; expected a list of labels, the last of them the bucket")
    if histogram.bucket_multiplier < 0:
        message = f"expected a number above 0, got {histogram.bucket_multiplier:g}"
        findings.problem((*path, "bucket_multiplier"), message)
    if histogram.bucket_type is BucketType.FIXED:
        count, where = len(histogram.bucket_keys), (*path, "bucket_keys")
        if not count:
            findings.problem(where, "missing; a histogram of type fixed needs its keys", *relied)
        for unused in _DYNAMIC_FIELDS:
            _warn_of_unused(histogram, unused, path, findings)
    else:
        count, where = histogram.bucket_max - histogram.bucket_min + 1, (*path, "bucket_max")
        if count <= 1:
            is_given = "bucket_max" in histogram.model_fields_set
            expected = f"expected more than bucket_min, which is {histogram.bucket_min}"
            findings.problem(
                where, f"{expected}, got {histogram.bucket_max}" if is_given else f"missing; {expected}", *relied
            )
        _warn_of_unused(histogram, "bucket_keys", path, findings)
    if count > MAX_BUCKETS:
        findings.problem(where, f"makes {count} buckets; expected at most {MAX_BUCKETS}", *relied)
    elif count >= 1 and histogram.bucket_multiplier > 0:
        _check_bounds(histogram, where, relied, findings)


def _check_bounds(histogram: Histogram, where: KeyPath, relied: list[KeyPath], findings: Findings) -> None:
    try:
        bounds = upper_bounds(histogram)
    except OverflowError:
        bounds = (math.inf,)
    if not all(map(math.isfinite, bounds)):
        findings.problem(where, "a bucket's upper bound is too large for a number of 64 bits", *relied)
    elif any(lower >= upper for lower, upper in itertools.pairwise(bounds)):
        findings.problem(where, "the buckets' upper bounds do not rise; expected each above the one before", *relied)
    elif any(key < 0 or not key.is_integer() for key in histogram.bucket_keys) or (
        histogram.bucket_type is not BucketType.FIXED and histogram.bucket_min < 0
    ):
        findings.warning(where, "some buckets stay empty: a key is a whole number from 0", *relied)


def _warn_of_unused(histogram: Histogram, name: str, path: KeyPath, findings: Findings) -> None:
    if name in histogram.model_fields_set:
        findings.warning((*path, name), f"is not used by the bucket_type {histogram.bucket_type}")


@dataclass(frozen=True, slots=True)
class _Exposed:
    """A metric as it is exposed, and where it is configured; labels are without the bucket."""

    path: KeyPath
    kind: MetricKind
    name: str
    help: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...]


def check_metric_names(config: Config, findings: Findings) -> None:
    """Record names that collide, and equal names that mean different things."""
    first: dict[str, _Exposed] = {}
    claims: dict[str, _Exposed] = {}
    for metric in _exposed(config):
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
    elif metric.kind != other.kind:
        findings.problem(
            names[0], f"{quote(metric.name)} is a {metric.kind} here and a {other.kind} at {where}", *names
        )
    else:
        if metric.help != other.help:
            message = f"expected the help that {quote(metric.name)} has at {where}, {quote(other.help)}"
            message += f", got {quote(metric.help)}"
            findings.problem((*metric.path, "help"), message, (*metric.path, "help"), (*other.path, "help"), *names)
        if metric.labels != other.labels:
            message = f"expected the labels that {quote(metric.name)} has at {where}, {_listed(other.labels)}"
            message += f", got {_listed(metric.labels)}"
            findings.problem(
                (*metric.path, "labels"), message, (*metric.path, "labels"), (*other.path, "labels"), *names
            )
        if metric.bounds != other.bounds:
            message = f"expected the buckets that {quote(metric.name)} has at {where}"
            findings.problem((*metric.path, "bucket_type"), message, metric.path, other.path)


def _listed(labels: tuple[str, ...]) -> str:
    return f"({', '.join(map(quote, labels))})"


def _exposed(config: Config) -> Iterator[_Exposed]:
    for index, program in enumerate(config.programs):
        path = ("programs", index, "metrics")
        for number, counter in enumerate(program.metrics.counters):
            labels = tuple(label.name for label in counter.labels)
            yield _Exposed((*path, "counters", number), "counter", counter.name, counter.help, labels, ())
        for number, histogram in enumerate(program.metrics.histograms):
            labels = tuple(label.name for label in histogram.labels[:-1])
            yield _Exposed(
                (*path, "histograms", number),
                "histogram",
                histogram.name,
                histogram.help,
                labels,
                _bounds_of(histogram),
            )


def _bounds_of(histogram: Histogram) -> tuple[float, ...]:
    """Return what can be compared: none where there are too many, or too large ones, which is reported elsewhere."""
    if histogram.bucket_max - histogram.bucket_min >= MAX_BUCKETS:
        return ()
    try:
        return upper_bounds(histogram)
    except OverflowError:
        return ()
