"""What README.md shows can be pasted as it is."""

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.load import load_config
from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.build.headers import find_headers
from ebpf_userspace_exporter.worker.build.process import BuildRequest, read_result, run

ROOT = Path(__file__).resolve().parents[2]
INDENTED = re.compile(r"^    programs:\n(?:(?: {4}.*)?\n)+", re.MULTILINE)
FENCED = re.compile(r"^```\w*\n(programs:\n.*?)^```$", re.MULTILINE | re.DOTALL)
C_COMMENT = re.compile(r"\s*//.*")


def blocks() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return [*map(textwrap.dedent, INDENTED.findall(text)), *FENCED.findall(text)]


@pytest.fixture(params=blocks(), ids=range(len(blocks())))
def block(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / "programs.yaml"
    file.write_text(request.param)
    return file


def test_readme_has_a_config_to_paste() -> None:
    assert blocks()


def test_a_config_in_the_readme_is_accepted_without_a_warning(block: Path) -> None:
    assert load_config(block, trusted=False).warnings == ()


def test_the_example_line_by_line_is_a_part_of_the_one_that_ships(tmp_path: Path) -> None:
    (tmp_path / "programs.yaml").write_text(blocks()[0])
    (shown,) = load_config(tmp_path / "programs.yaml", trusted=False).config.programs
    (shipped,) = load_config(ROOT / "examples/gunicorn-gc/config.yaml", trusted=False).config.programs

    assert (shown.name, shown.attachment) == (shipped.name, shipped.attachment)
    assert shown.metrics.counters == shipped.metrics.counters
    assert shown.usdt.items() <= shipped.usdt.items()
    shipped_lines = iter(lines_of_code(shipped))
    assert [line for line in lines_of_code(shown) if line not in shipped_lines] == []


@pytest.mark.bpf
def test_a_config_in_the_readme_compiles_for_debians_python(block: Path, tmp_path: Path) -> None:
    python = ["/usr/bin/python3", "-c", "import sys; print(flush=True); sys.stdin.read()"]
    for program in load_config(block, trusted=False).config.programs:
        with subprocess.Popen(python, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
            assert target.stdout is not None
            target.stdout.readline()
            result, diagnostics, exit_code = build(program, target.pid, tmp_path)

        image = read_result(result, diagnostics, exit_code)
        assert {function.name for function in image.functions} == {*program.usdt.values(), *program.uprobes.values()}


def build(program: Program, pid: int, scratch: Path) -> tuple[bytes, bytes, int]:
    """Build in a child, as the supervisor does; return what it left."""
    request = BuildRequest(program, pid, find_headers(None, scratch).path, scratch)
    result_path, diagnostics_path = scratch / "result", scratch / "diagnostics"
    with result_path.open("wb") as result, diagnostics_path.open("wb") as diagnostics:
        child = os.fork()
        if child == 0:
            run(request, result.fileno(), diagnostics.fileno())
        _, status = os.waitpid(child, 0)
    return result_path.read_bytes(), diagnostics_path.read_bytes(), os.waitstatus_to_exitcode(status)


def lines_of_code(program: Program) -> list[str]:
    lines = [C_COMMENT.sub("", line) for line in program.code.splitlines()]
    return [line for line in lines if line]
