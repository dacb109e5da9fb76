"""What commands write on stdout: tables for people, aligned text for programs and files, JSON.

Names come from elsewhere. What is unprintable is written as an escape sequence, and nothing in a name is markup.
"""

import io
import json
import sys
from collections.abc import Iterable, Sequence

import click

from ebpf_userspace_exporter.config.errors import escape

# How words are shown on a terminal that has colours.
_STYLES = {
    **dict.fromkeys(("good", "matches", "running"), "green"),
    **dict.fromkeys(("bad", "failed", "does not match", "stale_file"), "bold red"),
    **dict.fromkeys(("note", "not compiled", "not verified", "unknown", "retrying", "leader_exited"), "yellow"),
}


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with these headings; without colours and lines where stdout is no terminal."""
    cells = [["" if cell is None else escape(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _show_rich(columns, cells)
        return
    table = [[column.upper() for column in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        _write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_text(text: str, *, indent: int = 0) -> None:
    """Write lines, each of them made harmless."""
    for line in text.splitlines():
        _write(" " * indent + "\t".join(map(escape, line.split("\t"))))


def show_json(document: object) -> None:
    """Write JSON that is ASCII."""
    _write(json.dumps(document, indent=2))


def complain(message: str) -> None:
    """Write what went wrong, one line, on stderr."""
    click.echo(escape(message), err=True)


def _show_rich(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    # 50 ms to import, which output that goes elsewhere does without.
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(highlight=False, emoji=False).print(table)


def _write(line: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a C locale has no word for "…"
    click.echo(line)
