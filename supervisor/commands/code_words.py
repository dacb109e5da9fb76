"""A compiler's words about the code of a program, with places in the config's file for those in the code."""

import re
from itertools import zip_longest

from ebpf_userspace_exporter.config.code_places import CodePlace

_PLACE = re.compile(r"code:(?P<line>\d+)(?::(?P<column>\d+))?(?=: )")
_CARET = re.compile(r"(\s*\|)?[\s~]*\^[\s~^]*")
_GUTTER = re.compile(r"\s*\d+ \|")


def in_file(words: str, code: str, file: str, place: CodePlace) -> str:
    """Return the words with FILE:LINE:COLUMN in place of `code:LINE:COLUMN` where they are about the code as written.

    bcc compiles once more what it has made of the code: lines that clang then shows are others, and so are its numbers.
    """
    code_lines = code.split("\n")
    lines = words.split("\n")
    shown: list[str] = []
    is_written = True
    for line, quoted, marks in zip_longest(lines, lines[1:], lines[2:], fillvalue=""):
        found = _PLACE.match(line)
        if found is None or int(found["line"]) > len(code_lines):
            shown.append(line)
            continue
        if _CARET.fullmatch(marks):
            is_written = _GUTTER.sub("", quoted).split() == code_lines[int(found["line"]) - 1].split()
        shown.append(_placed(found, file, place) + line[found.end() :] if is_written else line)
    return "\n".join(shown)


def _placed(found: re.Match[str], file: str, place: CodePlace) -> str:
    line = f"{file}:{place.first_line + int(found['line']) - 1}"
    return f"{line}:{int(found['column']) + place.indent}" if found["column"] else line
