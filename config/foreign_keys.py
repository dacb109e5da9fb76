"""Keys of ebpf_exporter's configs that are not ours, and what to write instead."""

from collections.abc import Mapping

_UNFLUSHED = "is not supported: a scrape shows all that was counted until then"

FOREIGN_KEYS: Mapping[str, str] = {
    "metrics": 'belongs to a program: expected "programs:" and a list, each program with its code and metrics',
    "tracing": "is not supported: only metrics are made",
    "kaddrs": "is about the kernel's addresses, which probes in user space do not need",
    "cgroup_id_map": 'is not supported; the fields "{cgroup}" and "{container_id}" of target_labels need none',
    "perf_event_array": "is not needed: which tables are of events is seen from the code",
    "perf_map": 'is called "table" here',
    "flush_interval": _UNFLUSHED,
    "perf_map_flush_duration": _UNFLUSHED,
}

# The keys that take their place: what those miss is not told as well.
MEANT: Mapping[str, str] = {"metrics": "programs", "tracing": "programs", "perf_map": "table"}
