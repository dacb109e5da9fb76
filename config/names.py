"""The names that series get, and which of them are taken."""

import re
from collections.abc import Mapping
from typing import Literal

from ebpf_userspace_exporter.config.errors import quote

PREFIX = "userspace_exporter_"

MetricKind = Literal["counter", "gauge", "histogram"]

# The exporter's own metrics, without the prefix. process_* and python_* carry no prefix, so nothing can collide.
OWN_METRICS: Mapping[str, MetricKind] = {
    "enabled_programs": "gauge",
    "program_info": "gauge",
    "build_info": "gauge",
    "attach_mode_info": "gauge",
    "targets": "gauge",
    "targets_missed_total": "counter",
    "attach_seconds": "histogram",
    "attach_failures_total": "counter",
    "worker_restarts_total": "counter",
    "stale_workers": "gauge",
    "decode_errors_total": "counter",
    "dropped_series_total": "counter",
    "lost_events_total": "counter",
    "map_entries": "gauge",
    "map_max_entries": "gauge",
    "map_memory_bytes": "gauge",
    "program_run_seconds_total": "counter",
    "program_runs_total": "counter",
    "refresh_seconds": "histogram",
    "refresh_successful": "gauge",
    "scrape_seconds": "histogram",
    "unreadable_files_total": "counter",
    "config_last_reload_successful": "gauge",
    "config_last_reload_success_timestamp_seconds": "gauge",
}

# Not Prometheus's own rule for a first character: the prefix comes before it.
METRIC_NAME = re.compile(r"[A-Za-z0-9_:]{1,200}")
LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def label_name_problem(name: str) -> str | None:
    """Return why a label cannot have the name, or None."""
    if not LABEL_NAME.fullmatch(name):
        return f"expected a label's name of letters, digits and _ that starts with no digit, got {quote(name)}"
    if name.startswith("__"):
        return f"{quote(name)} starts with __, which Prometheus keeps for itself"
    return None


def family_of(name: str, kind: MetricKind) -> str:
    """Return the name of the metric's family: OpenMetrics takes `_total` for a suffix of the sample."""
    return (name.removesuffix("_total") or name) if kind == "counter" else name


def claimed_names(name: str, kind: MetricKind) -> frozenset[str]:
    """Return every name that the metric uses in an exposition; two metrics with one in common collide."""
    if kind == "histogram":
        return frozenset({name, f"{name}_bucket", f"{name}_sum", f"{name}_count"})
    return frozenset({name, family_of(name, kind)})


def own_metric_with(claims: frozenset[str]) -> str | None:
    """Return the exporter's own metric that has a name in common with `claims`, or None."""
    for name, kind in OWN_METRICS.items():
        if claims & claimed_names(name, kind):
            return name
    return None
