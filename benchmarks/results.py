"""RESULTS.md: what each benchmark printed when it last ran, a section each; the plots are drawn from it."""

import ast
import re
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
_PREFACE = """# Results

What each benchmark printed when it ran last; `scripts/bench` writes it here. The number after `load before` is what
others did on the machine meanwhile."""
_SECTION = "\n\n## "


def keep(name: str, output: str, file: Path = RESULTS) -> None:
    """Put a benchmark's output, the tables of `readings` and lines, in the place of what it printed before."""
    sections = _sections(file)
    sections[name] = f"{question(name)}\n\n{_markdown(output)}"
    file.write_text(_SECTION.join([_PREFACE, *(f"{each}\n\n{sections[each]}" for each in sorted(sections))]) + "\n")


def table(name: str, first_column: str, file: Path = RESULTS) -> list[dict[str, str]]:
    """Return the rows of a benchmark's table as cells by column; none where it has not run yet."""
    for paragraph in _sections(file).get(name, "").split("\n\n"):
        if paragraph.startswith(f"| {first_column} "):
            columns, _, *rows = (
                [cell.strip() for cell in line.strip("|").split("|")] for line in paragraph.splitlines()
            )
            return [dict(zip(columns, row, strict=True)) for row in rows]
    return []


def question(name: str) -> str:
    """Return the first paragraph of a benchmark's docstring, which says what it measures."""
    text = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text())) or ""
    return text.partition("\n\n")[0]


def _sections(file: Path) -> dict[str, str]:
    """Return what stands below each heading."""
    text = file.read_text().rstrip("\n") if file.exists() else ""
    _, *sections = text.split(_SECTION)
    return dict(section.split("\n\n", 1) for section in sections)


def _markdown(output: str) -> str:
    """Return what a benchmark printed; lines that are no table become a list, as Markdown would join them."""
    paragraphs = re.split(r"\n{2,}", output.strip("\n"))
    return "\n\n".join(_list(each) if "\n" in each and not each.startswith("|") else each for each in paragraphs)


def _list(lines: str) -> str:
    return "\n".join(f"- {line.strip()}" for line in lines.splitlines())
