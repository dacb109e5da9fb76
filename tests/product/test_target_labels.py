"""What series say of their target, for real processes, and how many targets and label sets a program may have."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.product.compiled import SOURCE, Target, compile_c, run_target
from tests.product.control_groups import TOP, groups_removed, in_group
from tests.product.exporter import Exporter, exporter, series, until
from tests.product.faults import fresh, scraping, wait_for_worker
from tests.product.lifecycle import QUICK
from tests.product.programs import PYTHON
from tests.product.selecting import config, enabled_pids, gc_program, specimen, targets

pytestmark = pytest.mark.bpf

NAME = f"label{os.getpid()}"
CONTAINER = f"{os.getpid():c>64x}"
GAMES = ("setpriv", "--reuid=games", "--regid=games", "--clear-groups")


def labels_of(running: Exporter) -> list[dict[str, str]]:
    """Return the labels of every series of gc_total for the youngest generation."""
    samples = fresh(running)
    return [dict(labels) for name, labels in samples if name == series("gc_total")[0] and ("gen", "0") in labels]


def test_templates_say_what_proc_says_of_the_process() -> None:
    templates = {
        "pid": "{pid}",
        "ppid": "{ppid}",
        "comm": "{comm}",
        "exe": "{exe}",
        "exe_base": "{exe_base}",
        "user": "{user}",
        "uid": "{uid}",
        "cgroup": "{cgroup}",
        "systemd_unit": "{systemd_unit}",
        "container_id": "{container_id}",
        "role": "{cmdline.role}",
        "team": "{environ.TEAM}",
        "missing": "<{environ.MISSING}{cmdline.part}>",
        "mixed": "{{{comm}/{uid}}} of {environ.TEAM}",
        "literal": "Berlin",
    }
    attachment = {"binary_name": NAME, "cmdline": r"--role=(?P<role>\w+)(?P<part> --part)?"}
    text = config(gc_program(attachment, target_labels=templates))
    group = f"{NAME}.service/docker-{CONTAINER}.scope"
    through = (*in_group(group), *GAMES)
    with (
        groups_removed(),
        specimen("--role=web", name=NAME, through=through, environ={"TEAM": "Käse & Brot"}) as target,
        exporter(text) as running,
    ):
        running.wait_attached("gc_total", target.pid)
        target.collect(1)

        assert labels_of(running) == [
            {
                "gen": "0",
                "pid": str(target.pid),
                "ppid": str(os.getpid()),
                "comm": NAME,
                "exe": PYTHON,
                "exe_base": Path(PYTHON).name,
                "user": "games",
                "uid": "5",
                "cgroup": f"{TOP}/{group}",
                "systemd_unit": f"{NAME}.service",
                "container_id": CONTAINER,
                "role": "web",
                "team": "Käse & Brot",
                "missing": "<>",
                "mixed": f"{{{NAME}/5}} of Käse & Brot",
                "literal": "Berlin",
            }
        ]


def test_a_named_group_is_a_label_by_which_targets_are_summed() -> None:
    program = gc_program({"binary_name": NAME, "cmdline": r"--role=(?P<role>\w+)"}, target_labels={})
    with (
        specimen("--role=web", name=NAME) as first,
        specimen("--role=web", name=NAME) as second,
        specimen("--role=mail", name=NAME) as third,
        exporter(config(program), *QUICK) as running,
    ):
        running.wait_attached("gc_total", first.pid, second.pid, third.pid)
        for times, each in enumerate((first, second, third), start=3):
            each.collect(times)

        by_role = {frozenset({("gen", "0"), ("role", "web")}): 7, frozenset({("gen", "0"), ("role", "mail")}): 5}
        assert running.values("gc_total", gen=0) == by_role


HOSTILE = {
    "quotes": (rb'say "hello" \n {x="y"} 1', r'say "hello" \n {x="y"} 1'),
    "newlines": (b"a\nuserspace_exporter_gc_total 9\r\t\x7f", r"a\x0auserspace_exporter_gc_total 9\x0d\x09\x7f"),
    "invalid UTF-8": (b"caf\xe9 \xff\xfe \xc3\xa9 \xed\xa0\x80", r"caf\xe9 \xff\xfe é \xed\xa0\x80"),
    "100 kB": (b"x" * 100_000, "x" * 1024),
    "of several bytes each": ("ü€😀".encode() * 400, ("ü€😀" * 400)[:1024]),
}


def test_hostile_values_are_text_in_a_valid_scrape() -> None:
    program = gc_program(
        {"cmdline": f"(?s) --{NAME}=(?P<note>.*)"},
        target_labels={"pid": "{pid}", "comm": "{comm}", "variable": "{environ.HOSTILE}", "argument": "{cmdline.note}"},
    )
    with contextlib.ExitStack() as stack:
        hostile, expected = [], {}
        for value, shown in HOSTILE.values():
            how = {"environ": {"HOSTILE": os.fsdecode(value)}, "name": 'q"\\\n} 1 #('}
            target = stack.enter_context(specimen(f"--{NAME}=".encode() + value, **how))
            hostile.append(target)
            texts = {"comm": r'q"\\x0a} 1 #(', "variable": shown, "argument": shown}
            expected[target.pid] = {"gen": "0", "pid": str(target.pid), **texts}
        running = stack.enter_context(exporter(config(program)))
        running.wait_attached("gc_total", *expected)
        for target in hostile:
            target.collect(1)

        assert {int(labels["pid"]): labels for labels in labels_of(running)} == expected
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=running.get().body, capture_output=True, check=True
        )
        assert checked.stdout + checked.stderr == b""


def test_no_more_targets_than_max_targets_are_attached_and_one_that_exits_makes_room() -> None:
    program = gc_program({"binary_name": NAME}, max_targets=3)
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(5):
            own = stack.enter_context(contextlib.ExitStack())
            started.append((own, own.enter_context(specimen(name=NAME)).pid))
        pids = [pid for _, pid in started]
        running = stack.enter_context(exporter(config(program), *QUICK))
        running.wait_attached("gc_total", *pids[:3])
        assert enabled_pids(running) == set(pids[:3])
        assert targets(running) == 3
        assert dropped(running, "gc_total", "max_targets") == 2

        exiting, _ = started[1]
        exiting.close()
        running.wait_attached("gc_total", pids[3])
        until(lambda: enabled_pids(running) == {pids[0], pids[2], pids[3]}, "the others stay")

        assert dropped(running, "gc_total", "max_targets") == 2
        assert running.log.count("more targets than max_targets") == 1
        assert f"pid={pids[4]} " not in running.log


def dropped(running: Exporter, program: str, reason: str) -> int:
    """Return how much of the program was dropped for that reason, none for another."""
    by_reason = running.values("dropped_series_total", name=program)
    assert {dict(labels)["reason"] for labels in by_reason} <= {reason}
    return int(sum(by_reason.values()))


LIMITED = """
  name: codes
  attachment: {binary_name: %s}
  uprobes: {event: on_event}
  max_series: 10
  metrics:
    counters:
      - name: codes_total
        table: codes
        labels: [{name: code, size: 4, decoders: [{name: uint}]}]
  code: |
    #include <uapi/linux/ptrace.h>
    BPF_HASH(codes, u32);
    int on_event(struct pt_regs *ctx) { u32 code = PT_REGS_PARM1(ctx); codes.increment(code); return 0; }
"""


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(SOURCE, tmp_path_factory.mktemp("limited") / NAME)


def events(target: Target, codes: range) -> None:
    """Have one event of each code."""
    for code in codes:
        target.tell(f"event {code} /x 127.0.0.1 1 1")


def codes_shown(running: Exporter) -> dict[tuple[int, int], int]:
    """Return the value of each series by pid and code."""
    samples = fresh(running)
    return {
        (int(labels["pid"]), int(labels["code"])): int(value)
        for (name, pairs), value in samples.items()
        if name == series("codes_total")[0]
        for labels in [dict(pairs)]
    }


def test_label_sets_beyond_max_series_are_dropped_and_those_shown_stay(binary: Path) -> None:
    text = config(yaml.safe_load(LIMITED % NAME))
    with run_target(binary) as target, exporter(text) as running, scraping(running, "codes_total"):
        running.wait_attached("codes", target.pid)
        events(target, range(6))
        first = codes_shown(running)
        assert first == {(target.pid, code): 1 for code in range(6)}
        assert dropped(running, "codes", "max_series") == 0

        events(target, range(25))
        shown = codes_shown(running)
        assert len(shown) == 10
        assert shown.keys() > first.keys()
        assert dropped(running, "codes", "max_series") == 15

        os.kill(wait_for_worker(running, target.pid), signal.SIGKILL)
        events(target, range(40))
        later = codes_shown(running)
        assert later == {key: value + 1 for key, value in shown.items()}
        assert dropped(running, "codes", "max_series") == 30
        assert running.log.count("max_series") == 1


def test_targets_of_a_program_share_max_series(binary: Path) -> None:
    text = config(yaml.safe_load(LIMITED % NAME))
    with run_target(binary) as first, run_target(binary) as second, exporter(text) as running:
        running.wait_attached("codes", first.pid, second.pid)
        events(first, range(8))
        events(second, range(8))
        shown = codes_shown(running)

        assert 2 <= len(shown) <= 10
        assert {pid for pid, _ in shown} == {first.pid, second.pid}
        until(lambda: len(codes_shown(running)) == 10, "what is left is used")
        assert shown.keys() <= codes_shown(running).keys()
        assert running.log.count("max_series") == 1
