"""Why a process is a target or not, key by key."""

import os
from typing import Any

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.supervisor.processes import process_table
from ebpf_userspace_exporter.supervisor.selection.explain import Explanation, explain
from ebpf_userspace_exporter.supervisor.selection.verdict import MAX_SHOWN, Outcome
from tests.product.exporter import comm
from tests.supervisor.selection.living import as_nobody, living, selector_of


def explained(
    pid: int, *attachments: dict[str, Any], exclude: tuple[dict[str, Any], ...] = (), **more: Any
) -> Explanation:
    programs = [
        Program(name=f"p{number}", attachment=selector_of(attachment), code="", **more)
        for number, attachment in enumerate(attachments)
    ]
    found = explain(programs, [selector_of(each) for each in exclude], pid, process_table())
    assert found is not None
    return found


def lines(found: Explanation, program: int = 0) -> list[str]:
    steps = found.programs[program].steps
    return [f"{step.key}: expected {step.expected}, found {step.found}: {step.outcome}" for step in steps]


def test_every_key_is_a_step_also_after_one_that_does_not_match() -> None:
    attachment = {
        "binary_name": ["other", "specimen"],
        "exe": "/opt/*",
        "environ": {"APP": "^shop$", "NONE": "x"},
        "cmdline": ["--role=(?P<role>.)", "none"],
        "listens_on": [5432, "6000-6010"],
    }
    with living("--role=web", environ={"APP": "shop"}) as process:
        found = explained(process.pid, attachment)
        exe = os.readlink(f"/proc/{process.pid}/exe")  # noqa: PTH115 - what is asked for
        cmdline = found.programs[0].steps[4].found

        assert cmdline.endswith(" --role=web")
        assert lines(found) == [
            "binary_name: expected other or specimen, found specimen: matches",
            f"exe: expected /opt/*, found {exe}: does not match",
            "environ.APP: expected ^shop$, found shop: matches",
            "environ.NONE: expected x, found not set: does not match",
            f"cmdline[0]: expected --role=(?P<role>.), found {cmdline}: matches",
            f"cmdline[1]: expected none, found {cmdline}: does not match",
            "listens_on: expected 5432 or 6000-6010, found none: does not match",
        ]
        assert found.programs[0].outcome is Outcome.DOES_NOT


def test_steps_of_other_processes_say_whose_they_are() -> None:
    own, parent = comm(os.getpid()), comm(os.getppid())
    with living() as process:
        found = explained(
            process.pid,
            {
                "parent": {"binary_name": "x"},
                "ancestor": {"binary_name": parent},
                "not": {"any": [{"uid": 7}, {"uid": 8}]},
            },
        )

    steps = found.programs[0].steps
    assert [(step.key, step.pid) for step in steps] == [
        ("not[0].any[0].uid", process.pid),
        ("not[0].any[1].uid", process.pid),
        ("not[0].any", process.pid),
        ("not[0]", process.pid),
        ("parent.binary_name", os.getpid()),
        ("ancestor.binary_name", os.getpid()),
        *([("ancestor.binary_name", os.getppid())] if own != parent else []),
        ("ancestor", process.pid),
    ]
    assert lines(found)[2] == "not[0].any: expected one that matches, found none: does not match"
    assert lines(found)[3] == "not[0]: expected does not match, found does not match: matches"
    assert lines(found)[-1] == "ancestor: expected one that matches, found one: matches"
    assert lines(found)[4] == f"parent.binary_name: expected x, found {own}: does not match"


def test_programs_have_an_outcome_and_labels_each() -> None:
    with living("--role=web") as process:
        attachments = {"cmdline": r"--role=(?P<role>\w+)"}, {"binary_name": "other"}
        found = explained(process.pid, *attachments, target_labels={"pid": "{pid}", "app": "{exe_base}"})

    assert [(each.program, each.outcome) for each in found.programs] == [
        ("p0", Outcome.MATCHES),
        ("p1", Outcome.DOES_NOT),
    ]
    assert [name for name, _ in found.programs[0].labels] == ["role", "pid", "app"]
    assert dict(found.programs[0].labels)["role"] == "web"


@pytest.mark.parametrize(("name", "expected"), [("specimen", True), ("other", False)])
def test_process_that_is_excluded_is_said_to_be_so(name: str, expected: bool) -> None:
    with living() as process:
        found = explained(process.pid, {"binary_name": "specimen"}, exclude=({"uid": 4711}, {"binary_name": name}))

    assert found.is_excluded is expected
    assert found.process.pid == process.pid
    assert found.programs[0].outcome is Outcome.MATCHES
    assert [step.key for exclusion in found.exclusions for step in exclusion.steps] == ["uid", "binary_name"]


def test_what_cannot_be_read_says_why() -> None:
    with living() as process:
        attachment = {"environ": {"APP": "x"}, "binary_name": "specimen"}
        found = as_nobody(
            lambda: [
                lines(explained(process.pid, attachment)),
                str(explained(process.pid, attachment).programs[0].outcome),
            ]
        )

    assert found == [
        [
            "binary_name: expected specimen, found specimen: matches",
            "environ.APP: expected x, found cannot be read: permission denied: unknown",
        ],
        "unknown",
    ]


def test_what_a_process_says_of_itself_is_shown_on_one_short_line() -> None:
    with living("a\nb\x1b[31m", "x" * 5000) as process:
        [step] = explained(process.pid, {"cmdline": "none"}).programs[0].steps

    assert step.found.isprintable()
    assert len(step.found) < 2 * MAX_SHOWN


def test_process_that_is_not_there_has_no_explanation() -> None:
    assert explain([], [], 900_000_001, process_table()) is None


def test_process_that_has_just_left_is_explained_all_the_same() -> None:
    with living() as process:
        table = process_table()
    program = Program(name="p", attachment=selector_of({"exe": "*"}), code="")
    found = explain([program], [], process.pid, table)

    assert found is not None
    assert found.programs[0].outcome is Outcome.UNKNOWN
    assert found.programs[0].steps[0].found == "cannot be read: no such file or directory"
