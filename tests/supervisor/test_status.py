"""What the control socket says, given the entries: one line, whatever they hold."""

import json
from dataclasses import replace
from typing import Any

from ebpf_userspace_exporter import __version__
from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase, Worker
from ebpf_userspace_exporter.supervisor.status import (
    BuildProgress,
    Load,
    Moment,
    build_progress,
    ready_line,
    status_line,
)
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target
from ebpf_userspace_exporter.worker.reasons import Reason

NOW = Moment(monotonic=1000.0, unix=1_700_000_000.0)


def entry(program: str, pid: int, **fields: Any) -> Entry:
    target = Target(Slot(program, pid), "digest", 1, ExecMark(1, 2, 3, 4), (("pid", str(pid)), ("role", "web")))
    definition = Program(name=program, attachment=Selector(binary_name=("x",)), code="")
    return Entry(target, definition, pidfd=-1, **{"discovered": 900.0, **fields})


def status(*entries: Entry, leaderless: tuple[Slot, ...] = (), programs: tuple[str, ...] = ()) -> dict[str, Any]:
    line = status_line(
        entries,
        leaderless,
        programs,
        ready=True,
        started=1_600_000_000.0,
        last_reload=Load(5.0, True),
        builds=BuildProgress(3, 5),
        comms={42: "gunicorn"},
        worker_memory={43: 4_200_000},
        now=NOW,
    )
    assert "\n" not in line
    document: dict[str, Any] = json.loads(line)
    return document


def test_a_target_has_its_labels_its_state_and_how_long_it_took_to_attach() -> None:
    worker = Worker(43, None, started=900.0)
    running = entry("gc", 42, phase=Phase.RUNNING, attached_at=900.25, changed_at=940.0, generation=3, worker=worker)

    assert status(running)["targets"] == [
        {
            "program": "gc",
            "pid": 42,
            "comm": "gunicorn",
            "labels": {"pid": "42", "role": "web"},
            "state": "running",
            "since": 1_700_000_000.0 - 60,
            "attach_seconds": 0.25,
            "generation": 3,
            "worker_memory_bytes": 4_200_000,
            "reason": None,
            "error": "",
        }
    ]


def test_what_is_not_known_of_a_target_is_null() -> None:
    [exited] = status(entry("gc", 7, phase=Phase.EXITED))["targets"]

    assert (exited["comm"], exited["worker_memory_bytes"], exited["attach_seconds"]) == (None, None, None)


def test_builds_to_come_are_one_for_each_program_and_executable_that_a_target_waits_for() -> None:
    building = {"retry_at": float("inf")}
    waits = [entry("gc", 1, **building), entry("gc", 2, **building), entry("gc", 3, phase=Phase.RUNNING)]
    other_file = replace(waits[0].target, exec_mark=ExecMark(1, 2, 3, 5))
    other_program = replace(waits[0].target, definition="other")

    assert build_progress(waits, 2) == BuildProgress(2, of=3)
    waits += [replace(waits[0], target=other_file), replace(waits[0], target=other_program)]
    assert build_progress(waits, 2) == BuildProgress(2, of=5)
    assert build_progress([entry("gc", 1, phase=Phase.RUNNING)], 2) == BuildProgress(2, of=2)
    assert status()["builds"] == {"finished": 3, "of": 5}


def test_a_target_that_has_never_changed_is_as_old_as_its_discovery() -> None:
    assert status(entry("gc", 42))["targets"][0]["since"] == 1_700_000_000.0 - 100


def test_a_failed_target_has_its_reason_and_the_whole_error() -> None:
    words = "code:1:2: error: expected ';'\n" * 100
    failed = entry("gc", 42, phase=Phase.FAILED, reason=Reason.COMPILE, error=words)

    [target] = status(failed)["targets"]

    assert (target["state"], target["reason"], target["error"]) == ("failed", "compile", words)
    assert target["attach_seconds"] is None


def test_programs_have_their_targets_counted_by_state_and_0_is_no_omission() -> None:
    entries = [
        entry("gc", 3, phase=Phase.RUNNING),
        entry("gc", 1, phase=Phase.RUNNING),
        entry("gc", 2, phase=Phase.FAILED),
        entry("removed", 9, phase=Phase.EXITED),
    ]

    document = status(*entries, programs=("gc", "idle"))

    assert document["programs"] == [
        {"name": "gc", "targets": {"failed": 1, "running": 2}},
        {"name": "idle", "targets": {}},
        {"name": "removed", "targets": {"exited": 1}},
    ]
    assert [target["pid"] for target in document["targets"]] == [1, 2, 3, 9]


def test_a_process_without_its_leader_is_a_target_that_is_not_taken_up() -> None:
    document = status(leaderless=(Slot("gc", 7),), programs=("gc",))

    assert document["targets"] == [{"program": "gc", "pid": 7, "state": "leader_exited"}]
    assert document["programs"] == [{"name": "gc", "targets": {"leader_exited": 1}}]


def test_the_exporter_says_who_it_is_and_how_its_config_was_loaded() -> None:
    document = status()

    assert document["version"] == __version__
    assert document["started"] == 1_600_000_000.0
    assert document["last_reload"] == {"at": 5.0, "successful": True, "error": ""}
    assert document["ready"] is True


def test_readiness_is_told_in_a_few_bytes() -> None:
    assert [ready_line(ready=ready) for ready in (True, False)] == ['{"ready": true}', '{"ready": false}']
