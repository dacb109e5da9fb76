"""`match` lists who would be a target now, and says why, key by key."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product.exporter import until
from tests.product.programs import PYTHON
from tests.supervisor.commands.command import command

CONFIG = """\
exclude: [{cmdline: [left-out]}]
programs:
  - name: sleepers
    usdt: {gc__start: on_gc}
    attachment: {binary_name: matched, cmdline: ['--role=(?P<role>\\w+)']}
    target_labels: {pid: "{pid}", who: "{user}"}
    code: int on_gc(void *ctx) { return 0; }
  - name: idle
    usdt: {gc__start: on_gc}
    attachment: {binary_name: nobody-is-so}
    code: int on_gc(void *ctx) { return 0; }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    file = tmp_path / "programs.yaml"
    file.write_text(CONFIG)
    file.chmod(0o644)
    return file


@pytest.fixture
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A process named `matched` with one more argument."""
    binary = tmp_path / "matched"
    binary.symlink_to(PYTHON)
    code = "print(flush=True); input()"
    with subprocess.Popen(
        [binary, "-c", code, request.param], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        assert started.stdout
        started.stdout.readline()
        until(lambda: Path(f"/proc/{started.pid}/comm").read_text() == "matched\n", "it has its name")
        yield started.pid
        started.kill()


@pytest.mark.parametrize("process", ["--role=web"], indirect=True)
def test_a_target_has_its_program_its_command_and_its_labels(process: int, config: Path) -> None:
    done = command("match", config, "--json")

    [target] = json.loads(done.stdout)
    assert (target["program"], target["pid"], target["not_attached"]) == ("sleepers", process, None)
    assert target["command"].endswith(" --role=web")
    assert target["labels"] == {"role": "web", "pid": str(process), "who": "root"}
    assert done.returncode == 0
    assert "idle: no process matches" in done.stderr


@pytest.mark.parametrize("process", ["--role=web"], indirect=True)
def test_the_table_has_a_row_for_each_target(process: int, config: Path) -> None:
    heading, row = command("match", config).stdout.splitlines()

    assert heading.split() == ["PROGRAM", "PID", "COMMAND", "LABELS"]
    assert row.split()[:2] == ["sleepers", str(process)]
    assert row.endswith(f"role=web, pid={process}, who=root")


@pytest.mark.parametrize("process", ["--role=web"], indirect=True)
def test_explained_is_every_key_of_every_program(process: int, config: Path) -> None:
    done = command("match", config, "--explain", process)

    assert done.returncode == 0
    text = done.stdout
    assert f"sleepers: matches; labels: role=web, pid={process}, who=root\n" in text
    assert "idle: does not match\n" in text
    rows = [line.split("  ") for line in text.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["binary_name", "matched", "matched", "matches"] in cells
    assert ["binary_name", "nobody-is-so", "matched", "does not match"] in cells


@pytest.mark.parametrize("process", ["--role=web"], indirect=True)
@pytest.mark.parametrize(
    ("attachment", "deciding"),
    [
        ("{binary_name: other, cmdline: ['--role', zone]}", "decided by binary_name, cmdline[1]"),
        ("{binary_name: matched, any: [{exe: /x}, {binary_name: x}]}", "decided by any"),
        ("{any: [{exe: /x}, {binary_name: matched}], not: [{exe: /x}, {user: root}]}", "decided by not[1]"),
        ("{parent: {any: [{exe: /x}, {cwd: /x}]}}", "decided by parent.any"),
        ("{ancestor: {exe: /x}}", "decided by ancestor"),
        ("{any: [{exe: /x}, {binary_name: matched}]}", "any"),
    ],
    ids=["keys", "any", "not", "parent", "ancestor", "nothing"],
)
def test_the_last_line_has_the_keys_that_keep_a_process_from_being_a_target(
    attachment: str, deciding: str, process: int, config: Path
) -> None:
    config.write_text(
        "programs:\n  - name: sleepers\n    usdt: {gc__start: on_gc}\n"
        f"    attachment: {attachment}\n    code: int on_gc(void *ctx) {{ return 0; }}\n"
    )

    last = command("match", config, "--explain", process).stdout.splitlines()[-1]

    if deciding.startswith("decided"):
        assert last == deciding
    else:
        assert re.split("  +", last) == ["any", "one that matches", "one", "matches"]


def test_a_kernel_thread_is_said_to_be_one(config: Path) -> None:
    if Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("no kernel threads in this PID namespace")
    config.write_text(CONFIG.replace("nobody-is-so", "kthreadd, library: '*'"))

    explained = command("match", config, "--explain", 2).stdout
    config.write_text(CONFIG.replace("nobody-is-so", "kthreadd"))
    listed = command("match", config, "--json").stdout

    assert explained.startswith("process 2: [kthreadd], a kernel thread\n")
    rows = [re.split("  +", line) for line in explained.splitlines()]
    assert ["library", "*", "cannot be read: it is a kernel thread", "unknown"] in rows
    assert explained.endswith("\ndecided by library\n")
    [target] = json.loads(listed)
    assert (target["pid"], target["not_attached"]) == (2, "it is a kernel thread, which executes no file")


@pytest.mark.parametrize("process", ["--role=left-out"], indirect=True)
def test_who_is_excluded_is_no_target_and_the_explanation_says_so(process: int, config: Path) -> None:
    assert json.loads(command("match", config, "--json").stdout) == []

    text = command("match", config, "--explain", process).stdout
    assert "sleepers: matches, but is excluded" in text
    assert "\ndecided by exclude[0]\n" in text
    explained = json.loads(command("match", config, "--explain", process, "--json").stdout)
    assert explained["is_excluded"] is True
    assert explained["exclude"][0]["outcome"] == "matches"


@pytest.mark.parametrize("process", ["\x1b[31m--role=web\n[bold]x"], indirect=True)
def test_a_hostile_command_line_is_escaped(process: int, config: Path) -> None:
    for options in ([], ["--explain", process], ["--json"]):
        done = command("match", config, *options)
        assert "\x1b" not in done.stdout
        assert "[bold]x" in done.stdout


@pytest.mark.parametrize("process", ["--role=web\nsleepers: does not match"], indirect=True)
def test_a_command_line_of_several_lines_does_not_forge_an_explanation(process: int, config: Path) -> None:
    lines = command("match", config, "--explain", str(process)).stdout.splitlines()

    assert "sleepers: does not match" not in lines
    assert any(line.startswith("sleepers: matches") for line in lines)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("process", ["--role=web"], indirect=True)
def test_without_root_a_process_of_somebody_else_is_listed_with_what_keeps_it(process: int, config: Path) -> None:
    done = command("match", config, nobody=True)

    assert done.returncode == 0
    assert str(process) in done.stdout
    assert "needs root or CAP_SYS_PTRACE" in done.stdout


def test_more_than_max_targets_are_told(config: Path) -> None:
    text = CONFIG.replace("matched, cmdline: ['--role=(?P<role>\\w+)']", "two-of-them").split("  - name: idle")[0]
    config.write_text(text.replace("    code", "    max_targets: 1\n    code"))
    code = "open('/proc/self/comm', 'w').write('two-of-them'); print(flush=True); input()"
    with (
        subprocess.Popen([PYTHON, "-c", code], stdin=-1, stdout=-1) as one,
        subprocess.Popen([PYTHON, "-c", code], stdin=-1, stdout=-1) as other,
    ):
        for process in (one, other):
            assert process.stdout
            process.stdout.readline()
        done = command("match", config)
        for process in (one, other):
            process.kill()

    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "sleepers: 1 more match and are left out: max_targets is 1\n"


def test_a_process_that_is_not_there_cannot_be_explained(config: Path) -> None:
    done = command("match", config, "--explain", 4194304)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "process 4194304 does not exist, or is gone\n"


@pytest.mark.parametrize("options", [[], ["--explain", "1"]])
def test_a_broken_config_is_exit_2(options: list[str], config: Path) -> None:
    config.write_text(CONFIG.replace("usdt", "usdts", 1))

    done = command("match", config, *options)

    assert (done.returncode, done.stdout) == (2, "")
    assert 'unknown key; did you mean "usdt"?' in done.stderr
