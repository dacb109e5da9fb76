"""`match` lists who would be a target now, and says why, key by key."""

import json
import os
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


@pytest.mark.parametrize("process", ["--role=left-out"], indirect=True)
def test_who_is_excluded_is_no_target_and_the_explanation_says_so(process: int, config: Path) -> None:
    assert json.loads(command("match", config, "--json").stdout) == []

    assert "sleepers: matches, but is excluded" in command("match", config, "--explain", process).stdout
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
