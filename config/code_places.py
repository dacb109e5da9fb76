"""Where the file has the lines of a program's code, so that what a compiler says of them can be found in it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodePlace:
    """The line of the file that is the code's first, and by how many characters all of its lines are indented."""

    first_line: int
    indent: int


def code_place(code: str, lines: Sequence[str], key_line: int) -> CodePlace | None:
    """Return where in the file's lines the code is whose key is in line `key_line`.

    None where it is not below its key line by line, as in quotes, folded, or behind an alias.
    """
    wanted = code.removesuffix("\n").split("\n")
    below = [line.removesuffix("\r") for line in lines[key_line : key_line + len(wanted)]]
    if len(below) < len(wanted):
        return None
    indent = next((len(line) - len(text) for line, text in zip(below, wanted, strict=True) if text.strip()), 0)
    if all(_is_same(line, text, indent) for line, text in zip(below, wanted, strict=True)):
        return CodePlace(key_line + 1, indent)
    return None


def _is_same(line: str, text: str, indent: int) -> bool:
    return line == " " * indent + text or not (line.strip() or text.strip())
