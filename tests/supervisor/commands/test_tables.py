"""Tables: lines and colours for people, aligned text for everything else, and names that do no harm to either."""

import re
import shutil
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor.commands.tables import show_table, show_text
from tests.product.programs import PYTHON
from tests.supervisor.commands.command import on_terminal

HOSTILE = "\x1b[31m[bold]red[/bold]\r\n\u202e:smile: \udcff"
ESCAPED = r"\x1b[31m[bold]red[/bold]\r\n\u202e:smile: \udcff"


def test_without_a_terminal_columns_are_aligned_and_nothing_follows_the_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_table(("name", "is"), [("a", "good"), ("longer", None)])

    assert capsys.readouterr().out == "NAME    IS\na       good\nlonger\n"


def test_hostile_text_is_escaped_in_tables_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("name", "is"), [(HOSTILE, "good")])
    show_text(f"one\ttab\n{HOSTILE}", indent=2)

    table, text = capsys.readouterr().out.split("one\ttab\n")
    assert table.splitlines()[1] == f"{ESCAPED}  good"
    assert text.splitlines()[0] == "  " + ESCAPED.partition(r"\r")[0]
    assert all(each.isprintable() for each in (table + text).replace("\n", ""))


def test_on_a_terminal_there_are_lines_and_colours() -> None:
    written = on_terminal("doctor")

    assert "─" in written
    assert "\x1b[32mgood" in written


def test_no_color_leaves_the_lines() -> None:
    written = on_terminal("doctor", NO_COLOR="1")

    assert "─" in written
    assert not re.search(r"\x1b\[[0-9;]*3\d[0-9;]*m", written)


def test_names_are_no_markup_on_a_terminal(tmp_path: Path) -> None:
    file = tmp_path / "[bold]:smile:[_bold]"
    shutil.copy(PYTHON, file)

    written = on_terminal("probes", file, "gc__start", COLUMNS="300")

    assert "[bold]:smile:[_bold]" in written
