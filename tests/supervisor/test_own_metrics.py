"""Own metrics, read back by the web's reader, are what prometheus_client says of them."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target
from ebpf_userspace_exporter.web.exposition import render_text
from ebpf_userspace_exporter.web.families import Merge
from ebpf_userspace_exporter.web.metric_files import MetricFile, read_metric_files
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
    merge = Merge()
    for file in read_metric_files(folder):
        assert isinstance(file, MetricFile)
        merge.add(file)
    return render_text(merge.families()).decode()


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
