"""Own metrics, read back by the web's reader, are what prometheus_client says of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.names import OWN_METRICS
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase, Usage
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target
from ebpf_userspace_exporter.web.exposition import render_text
from ebpf_userspace_exporter.web.families import Families
from ebpf_userspace_exporter.web.file_cache import FileCache, MetricFile
from ebpf_userspace_exporter.worker.bpf.usage import FunctionUsage, MapUsage
from ebpf_userspace_exporter.worker.metric_file import write_metric_file

PREFIX = "userspace_exporter_"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def entry(name: str, pid: int, phase: Phase = Phase.RUNNING, *, tag: str = "abc") -> Entry:
    program = Program(name=name, attachment=Selector(binary_name=("x",)), code="")
    made = Entry(Target(Slot(name, pid), "d", 1, ExecMark(1, 2, 3, 4)), program, -1, 0.0, phase)
    made.holdings.links, made.holdings.tags = [77], {"on_call": tag}
    return made


def samples(text: str) -> Samples:
    """Return what Prometheus would take from a text; a series that is there twice is an error."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def exposed(
    metrics: OwnMetrics,
    folder: Path,
    entries: Iterable[Entry] = (),
    programs: Iterable[str] = (),
    states: Iterable[tuple[str, str]] = (),
) -> str:
    """Return what the web makes of the files."""
    for kind, content in metrics.files(entries, programs, states).items():
        write_metric_file(folder / f"{kind}_supervisor.own", content, None)
    outcomes = FileCache(folder).read()
    files = [outcome for outcome in outcomes if isinstance(outcome, MetricFile)]
    families, left_out = Families().merged(files)
    assert (len(files), left_out) == (len(outcomes), [])
    return render_text(families).decode()


@pytest.fixture
def metrics() -> OwnMetrics:
    made = OwnMetrics()
    made.attach_failures.labels('a "b"\\\n\u20ac', "compile").inc(3)
    made.worker_restarts.labels("p", "worker_died").inc()
    made.attach_mode.labels("perf_event").set(1)
    for seconds in (0.001, 0.02, 0.02, 3, 1000):
        made.attach_seconds.observe(seconds)
    return made


def test_files_say_what_the_library_would(metrics: OwnMetrics, tmp_path: Path) -> None:
    expected = samples(generate_latest(metrics._registry).decode())
    found = samples(exposed(metrics, tmp_path))

    assert any(name == f"{PREFIX}attach_seconds_count" and value == 5 for (name, _), value in expected.items())
    # What /proc says of this process changes from one moment to the next.
    assert found.keys() >= expected.keys()
    for key, value in expected.items():
        if not key[0].startswith("process_"):
            assert found[key] == value


def test_stock_collector_sees_none_of_them(
    metrics: OwnMetrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposed(metrics, tmp_path, [entry("p", 1)])

    assert list(MultiProcessCollector(None, str(tmp_path)).collect()) == []  # type: ignore[no-untyped-call]


def test_enabled_programs_are_those_whose_probes_count(tmp_path: Path) -> None:
    """With a live worker or, for the moment, without one."""
    entries = [entry("p", 1), entry("p", 2, Phase.WAITING), entry("q", 1), entry("p", 3, Phase.EXITED)]
    entries.append(entry("p", 4))
    entries[-1].holdings.links = []
    found = samples(exposed(OwnMetrics(), tmp_path, entries))
    enabled = {tuple(sorted(labels)) for name, labels in found if name == f"{PREFIX}enabled_programs"}

    assert enabled == {(("name", name), ("pid", pid)) for name, pid in (("p", "1"), ("p", "2"), ("q", "1"))}


def test_program_info_is_of_what_is_attached_now_and_once(tmp_path: Path) -> None:
    metrics = OwnMetrics()
    exposed(metrics, tmp_path, [entry("p", 1, tag="old")])
    found = samples(exposed(metrics, tmp_path, [entry("p", 1, tag="new"), entry("p", 2, tag="new")]))
    infos = [dict(labels) for name, labels in found if name == f"{PREFIX}program_info"]

    assert infos == [{"name": "p", "function": "on_call", "tag": "new"}]


def usage_of(
    *, runs: int = 0, seconds: float = 0.0, lost: int = 0, maps: Mapping[str, MapUsage] | None = None
) -> Usage:
    return Usage(maps or {}, {"on_call": FunctionUsage(runs, seconds)} if runs else {}, {"events": lost})


def values(found: Samples, name: str) -> dict[str, float]:
    """Return a family's values by map or function, of the program p."""
    return {
        dict(labels).get("map") or dict(labels)["function"]: value
        for (sample, labels), value in found.items()
        if sample == f"{PREFIX}{name}" and ("name", "p") in labels
    }


def test_runs_and_lost_events_of_all_targets_are_added_up(tmp_path: Path) -> None:
    metrics = OwnMetrics()
    first, again, other = (
        usage_of(runs=10, seconds=0.5, lost=3),
        usage_of(runs=12, seconds=0.75, lost=3),
        usage_of(runs=5),
    )
    metrics.count_usage("p", Usage(), first)
    metrics.count_usage("p", first, again)
    metrics.count_usage("p", Usage(), other)
    metrics.count_usage("q", Usage(), first)
    found = samples(exposed(metrics, tmp_path))

    assert values(found, "program_runs_total") == {"on_call": 17}
    assert values(found, "program_run_seconds_total") == {"on_call": 0.75}
    assert values(found, "lost_events_total") == {"events": 3}


def test_runs_and_lost_events_stay_when_a_target_is_gone_or_loaded_anew(tmp_path: Path) -> None:
    metrics = OwnMetrics()
    before = usage_of(runs=10, seconds=0.5, lost=3)
    metrics.count_usage("p", Usage(), before)
    metrics.count_usage("p", before, usage_of(runs=2, seconds=0.25, lost=1))
    found = samples(exposed(metrics, tmp_path, entries=[]))

    assert values(found, "program_runs_total") == {"on_call": 12}
    assert values(found, "program_run_seconds_total") == {"on_call": 0.75}
    assert values(found, "lost_events_total") == {"events": 4}


def test_an_event_table_that_lost_nothing_says_so(tmp_path: Path) -> None:
    metrics = OwnMetrics()
    metrics.count_usage("p", Usage(), usage_of(lost=0))

    assert values(samples(exposed(metrics, tmp_path)), "lost_events_total") == {"events": 0}


def test_of_a_map_the_fullest_counts_and_the_memory_of_all(tmp_path: Path) -> None:
    entries = [entry("p", 1), entry("p", 2), entry("p", 3)]
    for number, each in enumerate(entries):
        each.holdings.maps = [99]
        maps = {"starts": MapUsage(10 * number, 64, 4096), "counts": MapUsage(None, 8, 100)}
        each.usage = usage_of(maps=maps)
    entries[2].holdings.maps = []  # let go of
    found = samples(exposed(OwnMetrics(), tmp_path, entries))

    assert values(found, "map_entries") == {"starts": 10}
    assert values(found, "map_max_entries") == {"starts": 64, "counts": 8}
    assert values(found, "map_memory_bytes") == {"starts": 8192, "counts": 200}


def test_every_name_is_reserved(metrics: OwnMetrics, tmp_path: Path) -> None:
    """Or a program could have a metric of that name."""
    one = entry("p", 1)
    one.holdings.maps, one.usage = [99], usage_of(runs=1, lost=1, maps={"starts": MapUsage(1, 2, 3)})
    metrics.count_usage("p", Usage(), one.usage)
    families = text_string_to_metric_families(exposed(metrics, tmp_path, [one], ["p"]))
    names = {family.name + "_total" * (family.type == "counter") for family in families}
    ours = {name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)}

    assert ours <= OWN_METRICS.keys()
    assert ours >= {"map_entries", "lost_events_total", "program_runs_total"}


def test_targets_are_counted_by_program_and_state(tmp_path: Path) -> None:
    states = [("p", "running"), ("p", "running"), ("q", "failed")]
    found = samples(exposed(OwnMetrics(), tmp_path, states=states, programs=["p", "q"]))
    counted = {
        (dict(labels)["name"], dict(labels)["state"]): value
        for (name, labels), value in found.items()
        if name == f"{PREFIX}targets" and value
    }

    assert counted == {("p", "running"): 2, ("q", "failed"): 1}


def test_files_hold_no_more_after_many_targets_have_come_and_gone(tmp_path: Path) -> None:
    metrics = OwnMetrics()
    sizes = set()
    for pid in range(100, 200):
        content = metrics.files([entry("p", pid)], ["p"], [("p", "running")])
        sizes.add(tuple(len(entries) for entries in content.values()))

    assert len(sizes) == 1
