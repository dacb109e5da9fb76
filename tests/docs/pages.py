"""Reads the reference pages: their marked blocks, their headings and their tables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(sorted((ROOT / "docs").glob("*.md")))

_MARK = re.compile(r"<!-- test: (?P<kind>\w+)(?: (?P<name>\S+))? -->")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `kind` says how it is run and is empty where nothing is said, `name` is that of a file."""

    page: str
    line: int
    language: str
    kind: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Table:
    """A table with the heading that it stands below; cells are as they were written."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def names(self, column: int = 0) -> list[str]:
        """Return every name that is code in a column, without the rest of the cell."""
        return [name for row in self.rows for name in code_in(row[column])]


def code_in(cell: str) -> list[str]:
    """Return the pieces of a cell that are code."""
    return _CODE.findall(cell)


def blocks() -> list[Block]:
    """Return every fenced block of every page."""
    return [block for path in PAGES for block in _blocks(path)]


def tables(page: str) -> list[Table]:
    """Return every table of a page."""
    return list(_tables(_tokens(ROOT / "docs" / page)))


def table(page: str, heading: str, first_column: str) -> Table:
    """Return the only table below a heading whose first column is called so."""
    [found] = [each for each in tables(page) if (each.heading, each.columns[0]) == (heading, first_column)]
    return found


def headings(page: str) -> list[str]:
    """Return the text of every heading of a page."""
    tokens = _tokens(ROOT / "docs" / page)
    return [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]


def _tokens(path: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(path.read_text())


def _blocks(path: Path) -> Iterator[Block]:
    mark = None
    for token in _tokens(path):
        if token.type == "fence":
            line = token.map[0] + 1 if token.map else 0
            kind, name = (mark["kind"], mark["name"] or "") if mark else ("", "")
            yield Block(path.name, line, token.info, kind, name, token.content)
        mark = _MARK.fullmatch(token.content.strip()) if token.type == "html_block" else None


def _tables(tokens: list[Token]) -> Iterator[Table]:
    heading = ""
    rows: list[list[str]] = []
    for index, token in enumerate(tokens):
        match token.type:
            case "heading_open":
                heading = tokens[index + 1].content
            case "tr_open":
                rows.append([])
            case "th_open" | "td_open":
                rows[-1].append(tokens[index + 1].content)
            case "table_close":
                columns, *body = map(tuple, rows)
                yield Table(heading, columns, tuple(body))
                rows = []
