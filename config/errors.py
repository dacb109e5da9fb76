"""What is wrong with a config: one line per problem, whatever the file holds."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]

MAX_QUOTED = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend; `source` is a file, a flag or an environment variable, `path` may be empty."""

    source: str
    line: int | None
    path: KeyPath
    message: str

    def __str__(self) -> str:
        where = escape(self.source) if self.line is None else f"{escape(self.source)}:{self.line}"
        return ": ".join(part for part in (where, path_text(self.path), self.message) if part)


class ConfigError(Exception):
    """The config cannot be used; str() is one line per problem, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def path_text(path: KeyPath) -> str:
    """Return a key path as people write it: `programs[2].metrics.counters[0].name`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("-", "_").isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{quote(part)}]"
    return text


def quote(text: str) -> str:
    """Return the text in double quotes, on one line and not longer than a message can bear."""
    shown = text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…"
    return '"' + escape(shown.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def escape(text: str) -> str:
    """Return the text with everything unprintable written as an escape sequence."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def did_you_mean(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that `word` most looks like, or None."""
    matches: Sequence[str] = difflib.get_close_matches(word[:MAX_QUOTED], list(choices), n=1)
    return matches[0] if matches else None


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return the end of a message about an unknown word, which is empty where nothing looks like it."""
    meant = did_you_mean(word, choices)
    return "" if meant is None else f"; did you mean {quote(meant)}?"


def suggestion_or_list(word: str, choices: Iterable[str]) -> str:
    """Return the end of a message about an unknown word; where nothing looks like it, everything that is allowed."""
    known = list(choices)
    allowed = f"; expected {'one of ' if len(known) > 1 else ''}{', '.join(known)}" if known else ""
    return suggestion(word, known) or allowed
