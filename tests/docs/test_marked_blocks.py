"""Every marked block of the reference pages does what the page says.

A mark is a comment on the line before the fence, `<!-- test: KIND -->`. The kinds:

config     a config: it is accepted without a warning
program    keys of a program: with those they make a complete one that is accepted
labels     the labels of a counter, likewise
compile    a config: `check --strict` is content with it, for a running Python
file NAME  a file that the `run` blocks have in their folder, those of other pages too
run        commands after `$ `, and what they write; `...` stands for anything
"""

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ebpf_userspace_exporter.config.load import load_config
from tests.docs.fragments import complete, complete_counter
from tests.docs.pages import PAGES, Block, blocks
from tests.docs.scene import Scene

KINDS = {"config", "program", "labels", "compile", "file", "run"}
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def marked(*kinds: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in blocks() if block.kind in kinds]


def fragment(block: Block) -> object:
    """Return the config that a block is a part of."""
    part = yaml.safe_load(block.text)
    if block.kind == "program":
        return complete(**part)
    if block.kind == "labels":
        return complete_counter(**part)
    return part


@pytest.mark.parametrize("block", marked("config", "program", "labels", "compile"))
def test_a_config_is_accepted_without_a_warning(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "programs.yaml"
    file.write_text(block.text if block.kind in ("config", "compile") else yaml.safe_dump(fragment(block)))

    assert load_config(file, trusted=False).warnings == ()


@pytest.mark.bpf
@pytest.mark.parametrize("block", marked("compile"))
def test_a_config_compiles_and_passes_the_verifier(block: Block, here: Scene, tmp_path: Path) -> None:
    file = tmp_path / "programs.yaml"
    file.write_text(block.text)
    command = ["check", "--strict", "--pid", str(here.pid), str(file)]

    done = subprocess.run(
        [sys.executable, "-m", "ebpf_userspace_exporter", *command], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.bpf
@pytest.mark.parametrize("block", marked("run"))
def test_commands_write_what_the_page_shows(block: Block, here: Scene) -> None:
    lines = block.text.splitlines(keepends=True)
    script = "".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    expected = here.as_here("".join(line for line in lines if not line.startswith("$ ")))

    written = here.run(script)

    assert doctest.OutputChecker().check_output(expected, written, _FLAGS), written


def test_every_mark_is_known_and_every_config_and_command_has_one() -> None:
    assert PAGES
    assert [str(block) for block in blocks() if block.language and block.kind not in KINDS] == []
