"""What a program's metrics must hold: names, tables, and values that can be read."""

from collections.abc import Mapping

from ebpf_userspace_exporter.config.errors import KeyPath, quote
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.histogram_checks import check_histogram
from ebpf_userspace_exporter.config.label_checks import check_labels
from ebpf_userspace_exporter.config.model import Counter, Gauge, Histogram, Metrics
from ebpf_userspace_exporter.config.names import C_IDENTIFIER, METRIC_NAME


def check_metrics(metrics: Metrics, path: KeyPath, target_labels: Mapping[str, KeyPath], findings: Findings) -> None:
    """Record what is wrong with each metric; `target_labels` as for check_labels."""
    for index, counter in enumerate(metrics.counters):
        where = (*path, "counters", index)
        _check_names(counter, where, findings)
        check_labels(counter.labels, (*where, "labels"), findings, target_labels=target_labels)
        _check_value(counter, where, findings)
    for index, gauge in enumerate(metrics.gauges):
        where = (*path, "gauges", index)
        _check_names(gauge, where, findings)
        check_labels(gauge.labels, (*where, "labels"), findings, target_labels=target_labels)
        _check_value(gauge, where, findings)
    for index, histogram in enumerate(metrics.histograms):
        where = (*path, "histograms", index)
        _check_names(histogram, where, findings)
        check_labels(histogram.labels, (*where, "labels"), findings, target_labels=target_labels, is_histogram=True)
        check_histogram(histogram, where, findings)


def _check_names(metric: Counter | Gauge | Histogram, path: KeyPath, findings: Findings) -> None:
    if not METRIC_NAME.fullmatch(metric.name):
        expected = "a metric's name of letters, digits and _"
        findings.problem((*path, "name"), f"expected {expected}, got {quote(metric.name)}")
    if not C_IDENTIFIER.fullmatch(metric.table):
        findings.problem((*path, "table"), f"expected the name of a BPF map in the code, got {quote(metric.table)}")


def _check_value(metric: Counter | Gauge, path: KeyPath, findings: Findings) -> None:
    multiplier = metric.value_multiplier
    if multiplier <= 0 and isinstance(metric, Counter):
        message = f"expected a number above 0, as a counter never falls, got {multiplier:g}"
        findings.problem((*path, "value_multiplier"), message)
    elif multiplier == 0:
        findings.problem((*path, "value_multiplier"), "expected a number other than 0, got 0")
    if metric.value_offset and metric.value_type is None:
        message = "without a value_type up to 8 bytes are read there, whatever they are"
        findings.warning((*path, "value_offset"), message, (*path, "value_offset"), (*path, "value_type"))
