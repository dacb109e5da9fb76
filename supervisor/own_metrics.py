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
from ebpf_userspace_exporter.supervisor.entry import STATES, Entry, Usage
from ebpf_userspace_exporter.worker.bpf.usage import FunctionUsage, MapUsage
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
        self._lost_events = _counter(
            registry, "lost_events", "Events for which there was no place in their buffer.", "name", "map"
        )
        self._program_runs = _counter(
            registry, "program_runs", "Runs of a function, where kernel.bpf_stats_enabled is on.", "name", "function"
        )
        self._program_run_seconds = _counter(
            registry,
            "program_run_seconds",
            "Time in a function, where kernel.bpf_stats_enabled is on.",
            "name",
            "function",
        )
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

    def count_usage(self, program: str, before: Usage, now: Usage) -> None:
        """Count what a target has run and lost since it was at `before`, whichever of its workers said so."""
        for table, lost in now.lost_events.items():
            self._lost_events.labels(program, table).inc(_growth(before.lost_events.get(table, 0), lost))
        for function, usage in now.functions.items():
            known = before.functions.get(function, FunctionUsage(0, 0.0))
            self._program_runs.labels(program, function).inc(_growth(known.runs, usage.runs))
            self._program_run_seconds.labels(program, function).inc(_growth(known.seconds, usage.seconds))

    def files(
        self, entries: Iterable[Entry], programs: Iterable[str], states: Iterable[tuple[str, str]]
    ) -> dict[str, Entries]:
        """Return what the `.own` files hold, by the type of metric that names them.

        `programs` are the names in the config; `states` has program and state of each target.
        """
        files: dict[str, dict[str, tuple[float, float]]] = {"counter": {}, "gauge": {}, "histogram": {}}
        entries = list(entries)
        families = (*self._registry.collect(), *_of_entries(entries), *_of_maps(entries), _of_states(programs, states))
        for family in families:
            content = files[family.type]
            for name, labels, value in _stored_samples(family):
                content[metric_key(family.name, name, labels, family.documentation)] = (value, 0.0)
        return dict(files)


def _counter(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Counter:
    return Counter(f"{PREFIX}{name}", text, labels, registry=registry)


def _growth(before: float, now: float) -> float:
    """Return what came in addition; what has fallen began anew."""
    return now - before if now >= before else now


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


def _of_maps(entries: Iterable[Entry]) -> Iterator[Metric]:
    """Yield how full and how large the maps of all targets are; of their fullest one, as that is the one that loses."""
    fullest = Metric(f"{PREFIX}map_entries", "Keys in a map, of the target where it has most.", "gauge")
    room = Metric(f"{PREFIX}map_max_entries", "For how many keys a map has room; of a ring buffer, bytes.", "gauge")
    memory = Metric(f"{PREFIX}map_memory_bytes", "Kernel memory of a map, of all targets together.", "gauge")
    usages: dict[tuple[str, str], list[MapUsage]] = {}
    for entry in (entry for entry in entries if entry.holdings.maps):
        for name, usage in entry.usage.maps.items():
            usages.setdefault((entry.slot.program, name), []).append(usage)
    for (program, name), found in sorted(usages.items()):
        labels = {"name": program, "map": name}
        counted = [usage.entries for usage in found if usage.entries is not None]
        if counted:
            fullest.add_sample(fullest.name, labels, max(counted))
        room.add_sample(room.name, labels, max(usage.max_entries for usage in found))
        memory.add_sample(memory.name, labels, sum(usage.memory_bytes for usage in found))
    yield from (fullest, room, memory)


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
