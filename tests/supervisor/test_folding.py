"""Totals of targets that are gone: retired, added up by a real child, and put in place in one step."""

import itertools
import json
import math
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.supervisor.epoch import Epoch
from ebpf_userspace_exporter.supervisor.folding import Folding
from ebpf_userspace_exporter.supervisor.matching import Definition
from ebpf_userspace_exporter.supervisor.slot_files import SlotFiles
from ebpf_userspace_exporter.supervisor.state_dir import StateDir
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target
from ebpf_userspace_exporter.worker import file_names
from ebpf_userspace_exporter.worker.metric_file import MetricFileError, metric_key, read_metric_file, write_metric_file

DEADLINE_SECONDS = 30.0
LABEL = {"name": "gen", "size": 8, "decoders": [{"name": "uint"}]}


def definition(*, labels: Mapping[str, str] | None = None, help_text: str = "") -> Definition:
    """Return a program with the counter gc_total{gen, service} and the histogram pause{service} of two buckets."""
    metrics = {
        "counters": [{"name": "gc_total", "help": help_text, "table": "t", "labels": [LABEL]}],
        "histograms": [
            {
                "name": "pause",
                "table": "h",
                "labels": [LABEL],
                "bucket_type": "fixed",
                "bucket_keys": [1, 2],
            }
        ],
    }
    program = Program.model_validate(
        {
            "name": "gc",
            "code": "x",
            "attachment": {"binary_name": "x"},
            "target_labels": {"service": "shop"} if labels is None else labels,
            "metrics": metrics,
        }
    )
    return Definition(program, program.digest())


def counter(gen: str, *, service: str = "shop", help_text: str = "") -> str:
    labels = [("gen", gen), ("service", service)]
    return metric_key("userspace_exporter_gc", "userspace_exporter_gc_total", labels, help_text)


def bucket(le: str) -> str:
    family = "userspace_exporter_pause"
    return metric_key(family, f"{family}_bucket", [("service", "shop"), ("le", le)], "")


def histogram_sum() -> str:
    family = "userspace_exporter_pause"
    return metric_key(family, f"{family}_sum", [("service", "shop")], "")


def _reaped() -> tuple[int, int]:
    pid, status = os.waitpid(-1, 0)
    return pid, os.waitstatus_to_exitcode(status)


class Scene:
    """A state directory, and the folding of one program in it."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = StateDir(folder / "state", group=None)
        self.epoch = Epoch(self.state_dir, None)
        self.folding = Folding(SlotFiles(self.state_dir, self.epoch), None)
        self.folding.define({"gc": definition()})

    def write(self, pid: int, counters: Mapping[str, float], *, kind: file_names.FoldedKind = "counter") -> None:
        path = self.state_dir.path / file_names.metric_file_name(kind, "gc", pid)
        write_metric_file(path, {key: (value, value) for key, value in counters.items()}, None)

    def fold(self, now: float = 0.0) -> None:
        """Begin to fold, wait for the child, and take what it has written."""
        self.folding.advance(now)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.folding.is_idle:
            assert time.monotonic() < deadline
            pid, status = os.waitpid(-1, 0)
            assert self.folding.on_exit(pid, os.waitstatus_to_exitcode(status), now)

    def shown(self, kind: str = "counter") -> dict[str, float]:
        """Return what a reader sees: all files of the kind, added up."""
        totals: dict[str, float] = {}
        for path in self.state_dir.path.glob(f"{kind}_*.db"):
            for key, (value, _) in read_metric_file(path).items():
                totals[key] = totals.get(key, 0.0) + value
        return totals

    def files(self) -> list[str]:
        return sorted(path.name.split("_", 2)[2] for path in self.state_dir.path.glob("*_gc-*"))

    def close(self) -> None:
        self.epoch.close()
        self.state_dir.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def test_values_are_shown_under_another_name_from_the_moment_that_the_target_is_gone(scene: Scene) -> None:
    scene.write(1, {counter("0"): 5.0})

    scene.folding.retire(Slot("gc", 1), 1)

    assert scene.shown() == {counter("0"): 5.0}
    assert scene.files() == ["retired-1.db"]


def test_what_targets_that_are_gone_have_counted_becomes_one_file(scene: Scene) -> None:
    for pid in (1, 2, 3):
        scene.write(pid, {counter("0"): 5.0, counter(str(pid)): 1.0})
        scene.folding.retire(Slot("gc", pid), 1)
    scene.fold()
    scene.write(4, {counter("0"): 0.5})
    scene.folding.retire(Slot("gc", 4), 1)
    scene.fold()

    assert scene.files() == ["folded.db"]
    assert scene.shown() == {counter("0"): 15.5, **{counter(str(pid)): 1.0 for pid in (1, 2, 3)}}
    assert scene.folding.series("gc") == 4
    assert not scene.folding.next_deadline() < float("inf")


def test_histograms_are_added_up_bucket_by_bucket(scene: Scene) -> None:
    for pid in (1, 2):
        entries = {bucket("1.0"): 1.0, bucket("2.0"): 2.0, bucket("+Inf"): 0.0, histogram_sum(): 7.5}
        scene.write(pid, entries, kind="histogram")
        scene.folding.retire(Slot("gc", pid), 1)
    scene.fold()

    assert scene.shown("histogram") == {bucket("1.0"): 2.0, bucket("2.0"): 4.0, bucket("+Inf"): 0, histogram_sum(): 15}
    assert scene.folding.series("gc") == 1


def test_totals_that_cannot_be_renamed_stay_where_they_are(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("read-only")

    scene.write(1, {counter("0"): 5.0})
    monkeypatch.setattr(file_names, "rename", refuse)

    scene.folding.retire(Slot("gc", 1), 1)

    assert scene.shown() == {counter("0"): 5.0}
    assert struct.unpack("=Q", (scene.state_dir.path / "epoch").read_bytes())[0] % 2 == 0


def test_a_slot_without_totals_leaves_nothing_to_fold(scene: Scene) -> None:
    scene.folding.retire(Slot("gc", 1), 1)

    scene.folding.advance(0.0)

    assert scene.folding.is_idle
    assert scene.files() == []


def test_a_changed_program_keeps_the_series_that_it_still_has_and_no_others(scene: Scene) -> None:
    scene.write(1, {counter("0"): 5.0})
    scene.write(1, {bucket("1.0"): 1.0, bucket("+Inf"): 0.0, histogram_sum(): 1.0}, kind="histogram")
    scene.folding.retire(Slot("gc", 1), 1)
    scene.fold()

    scene.folding.define({"gc": definition(help_text="new")})
    scene.fold()

    assert scene.shown() == {counter("0", help_text="new"): 5.0}
    assert scene.shown("histogram") == {}, "of a histogram with other buckets"


@pytest.mark.parametrize(
    "definitions",
    [{}, {"gc": definition(labels={"pid": "{pid}"})}],
    ids=["removed", "tells its targets apart"],
)
def test_totals_end_with_a_program_that_has_none_any_more(scene: Scene, definitions: Mapping[str, Definition]) -> None:
    scene.write(1, {counter("0"): 5.0})
    scene.folding.retire(Slot("gc", 1), 1)
    scene.fold()
    scene.write(2, {counter("0"): 5.0})
    scene.folding.retire(Slot("gc", 2), 1)

    scene.folding.define(definitions)
    assert scene.files() == []
    scene.write(3, {counter("0"): 5.0})
    scene.folding.retire(Slot("gc", 3), 1)
    assert scene.files() == []


def test_totals_stay_while_targets_count_by_a_former_definition(scene: Scene) -> None:
    """Until they are swapped; and where the changed program is refused, for good."""
    former, changed = definition(), definition(labels={"team": "a"})
    living = Target(Slot("gc", 7), former.digest, 1, ExecMark(1, 2, 3, 4))
    scene.folding.begin(living)
    scene.write(1, {counter("0"): 5.0})
    scene.folding.retire(Slot("gc", 1), 1)
    scene.fold()

    scene.folding.define({"gc": changed})
    assert scene.folding.next_deadline() == math.inf
    scene.write(2, {counter("0"): 2.0})
    scene.folding.retire(Slot("gc", 2), 1)
    scene.fold()
    assert scene.shown() == {counter("0"): 7.0}
    assert scene.files() == ["folded.db"]

    scene.folding.end(living)
    scene.fold()
    assert scene.shown() == {}
    assert scene.folding.next_deadline() == math.inf


def test_what_was_folded_for_a_program_that_was_removed_is_not_its_successors_of_that_name(scene: Scene) -> None:
    scene.write(1, {counter("0"): 5.0})
    scene.folding.retire(Slot("gc", 1), 1)
    scene.folding.advance(0.0)
    [pid] = [scene.folding._child[0]] if scene.folding._child else []
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    temporaries = {path: path.read_bytes() for path in scene.state_dir.path.glob("*.tmp")}
    assert temporaries

    scene.folding.define({})
    scene.folding.define({"gc": definition()})
    for path, content in temporaries.items():
        path.write_bytes(content)
    for number in (2, 3):
        scene.write(number, {counter("0"): 1.0})
        scene.folding.retire(Slot("gc", number), 1)
    assert scene.folding.on_exit(*_reaped(), 0.0)

    assert scene.shown() == {counter("0"): 2.0}
    scene.fold()
    assert scene.files() == ["folded.db"]
    assert scene.shown() == {counter("0"): 2.0}


def test_label_sets_count_from_the_moment_that_their_target_is_gone(scene: Scene) -> None:
    scene.write(1, {counter("0"): 5.0, counter("1"): 1.0})
    scene.folding.retire(Slot("gc", 1), 2)
    before = scene.folding.series("gc")
    scene.fold()

    assert (before, scene.folding.series("gc")) == (2, 2)


def test_totals_of_other_labels_are_not_the_changed_programs(scene: Scene) -> None:
    scene.write(1, {counter("0"): 5.0})
    scene.folding.retire(Slot("gc", 1), 1)
    scene.folding.define({"gc": definition(labels={"team": "a"})})
    scene.fold()

    assert scene.shown() == {}
    assert scene.files() == []


def test_a_file_that_cannot_be_read_costs_itself_alone(scene: Scene) -> None:
    for pid in (1, 2):
        scene.write(pid, {counter("0"): 5.0})
    (scene.state_dir.path / file_names.metric_file_name("counter", "gc", 1)).write_bytes(b"noise")
    for pid in (1, 2):
        scene.folding.retire(Slot("gc", pid), 1)
    scene.fold()

    assert scene.shown() == {counter("0"): 5.0}
    assert scene.files() == ["folded.db"]


def test_a_child_that_is_killed_costs_nothing_and_another_is_tried_later(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write(1, {counter("0"): 5.0})
    scene.folding.retire(Slot("gc", 1), 1)
    with monkeypatch.context() as slow:
        slow.setattr("ebpf_userspace_exporter.supervisor.folding.fold", lambda *_, **__: signal.pause())
        scene.folding.advance(100.0)
    scene.folding.kill()
    pid, status = os.waitpid(-1, 0)
    assert scene.folding.on_exit(pid, os.waitstatus_to_exitcode(status), 100.0)

    assert scene.shown() == {counter("0"): 5.0}
    assert scene.files() == ["retired-1.db"]
    scene.folding.advance(100.5)
    assert scene.folding.is_idle, "not before its time"
    assert scene.folding.next_deadline() == 101.0
    scene.fold(101.0)
    assert scene.files() == ["folded.db"]


def test_a_reader_that_honours_the_epoch_never_sees_a_total_fall(scene: Scene) -> None:
    epoch_path = scene.state_dir.path / "epoch"
    stopped, seen = threading.Event(), []

    def read() -> None:
        while not stopped.is_set():
            before = struct.unpack("=Q", epoch_path.read_bytes())[0]
            try:
                total = sum(scene.shown().values())
            except MetricFileError:
                total = -1.0  # gone between listing and reading: the epoch must say so
            if before % 2 == 0 and struct.unpack("=Q", epoch_path.read_bytes())[0] == before:
                seen.append(total)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for pid in range(1, 41):
            scene.write(pid, {counter("0"): 1.0})
            scene.folding.retire(Slot("gc", pid), 1)
            scene.fold()
    finally:
        stopped.set()
        reader.join()

    assert len(seen) > 10
    assert all(before <= after for before, after in itertools.pairwise(seen)), seen
    assert json.loads(next(iter(scene.shown())))[0] == "userspace_exporter_gc"
