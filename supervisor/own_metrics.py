"""The exporter's own metrics: counted here, written as a file beside the programs' files."""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)

from ebpf_userspace_exporter import __version__
from ebpf_userspace_exporter.config.names import PREFIX
from ebpf_userspace_exporter.supervisor.entry import STATES, Entry
from ebpf_userspace_exporter.worker.metric_file import metric_key
from ebpf_userspace_exporter.worker.reasons import Reason

ATTACH_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

Entries = Mapping[str, tuple[float, float]]


class OwnMetrics:
    """Counters as they happen, and gauges of the moment they are asked for."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it without types
        self._registry = registry = CollectorRegistry()
        self.targets_missed = _counter(registry, "targets_missed", "Matched, but gone before attached.", "name")
        self.worker_restarts = _counter(registry, "worker_restarts", "Workers that died or hung.", "name", "reason")
        self.attach_failures = _counter(
            registry, "attach_failures", "Failed builds, loads, attaches.", "name", "reason"
        )
        self.decode_errors = _counter(
            registry, "decode_errors", "Map keys that decode to no label set.", "name", "metric"
        )
        self.dropped_series = _counter(registry, "dropped_series", "Series not written.", "name", "reason")
        self.attach_seconds = Histogram(
            f"{PREFIX}attach_seconds",
            "From the discovery of a target to its probes being live.",
            registry=registry,
            buckets=ATTACH_BUCKETS,
        )
        self.reload_successful = Gauge(
            f"{PREFIX}config_last_reload_successful",
            "Whether the last (re)load of the config succeeded.",
            registry=registry,
        )
        self.reload_time = Gauge(
            f"{PREFIX}config_last_reload_success_timestamp_seconds",
            "When the config was last loaded successfully, Unix time.",
            registry=registry,
        )
        self.attach_mode = Gauge(
            f"{PREFIX}attach_mode_info",
            "How probes are attached: uprobe_multi or perf_event.",
            ["mode"],
            registry=registry,
        )
        Gauge(f"{PREFIX}build_info", "The exporter's version.", ["version"], registry=registry).labels(__version__).set(
            1
        )
        ProcessCollector(registry=registry)

    def announce(self, programs: Iterable[str]) -> None:
        """Have the counters of these programs there from the start: an increase from nothing is none to Prometheus."""
        for name in programs:
            self.targets_missed.labels(name)
            for reason in (Reason.WORKER_DIED, Reason.WORKER_TIMEOUT):
                self.worker_restarts.labels(name, reason)

    def files(
        self, entries: Iterable[Entry], programs: Iterable[str], states: Iterable[tuple[str, str]]
    ) -> dict[str, Entries]:
        """Return what the `.own` files hold, by the type of metric that names them.

        `programs` are the names in the config; `states` has program and state of each target.
        """
        files: dict[str, dict[str, tuple[float, float]]] = {"counter": {}, "gauge": {}, "histogram": {}}
        for family in (*self._registry.collect(), *_of_entries(entries), _of_states(programs, states)):
            content = files[family.type]
            for name, labels, value in _stored_samples(family):
                content[metric_key(family.name, name, labels, family.documentation)] = (value, 0.0)
        return dict(files)


def _counter(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Counter:
    return Counter(f"{PREFIX}{name}", text, labels, registry=registry)


def _of_entries(entries: Iterable[Entry]) -> Iterator[Metric]:
    enabled = Metric(f"{PREFIX}enabled_programs", "The set of enabled programs", "gauge")
    info = Metric(f"{PREFIX}program_info", "The functions loaded and their tags, as the kernel computes them.", "gauge")
    tags: set[tuple[str, str, str]] = set()
    for entry in entries:
        name = entry.slot.program
        if entry.is_enabled:
            enabled.add_sample(enabled.name, {"name": name, "pid": str(entry.slot.pid)}, 1)
            tags.update((name, function, tag) for function, tag in entry.holdings.tags.items())
    for name, function, tag in sorted(tags):
        info.add_sample(info.name, {"name": name, "function": function, "tag": tag}, 1)
    yield from (enabled, info)


def _of_states(programs: Iterable[str], states: Iterable[tuple[str, str]]) -> Metric:
    """Return all states of all programs: one that matches nobody is worth an alert, and that needs a 0."""
    targets = Metric(f"{PREFIX}targets", "Targets by the state they are in.", "gauge")
    counts = Tally({(name, str(state)): 0 for name in programs for state in STATES})
    counts.update(states)
    for (name, state), count in sorted(counts.items()):
        targets.add_sample(targets.name, {"name": name, "state": state}, count)
    return targets


def _stored_samples(family: Metric) -> Iterator[tuple[str, list[tuple[str, str]], float]]:
    """Yield a family as the files have it: of a histogram each bucket's own count, and no `_count`."""
    below = 0.0
    for sample in family.samples:
        value = sample.value
        if sample.name.endswith("_count") and family.type == "histogram":
            below = 0.0
            continue
        if sample.name.endswith("_bucket"):
            below, value = value, value - below
        yield sample.name, list(sample.labels.items()), value
