"""What an expression of PromQL asks for: metrics, labels in their braces, and labels that it groups by."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ebpf_userspace_exporter.config.names import PREFIX

_SELECTOR = re.compile(r"([A-Za-z_:][\w:]*)\{([^{}]*)\}")
_GROUPING = re.compile(r"\b(?:sum|count|min|max|avg) by \(([^()]*)\) \(")


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric's name as in samples, with what is asked of each label."""

    metric: str
    matchers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Grouping:
    """The labels of a `by`, and the metrics of which they must be."""

    labels: frozenset[str]
    metrics: frozenset[str]


def selectors(expression: str) -> list[Selector]:
    """Return what is asked for, in order; every metric has braces."""
    bare = re.findall(rf"\b{PREFIX}\w+\b(?!\{{)", expression)
    assert not bare, f"without job and instance: {bare}"
    return [
        Selector(name, dict(re.findall(r'(\w+)=~?"([^"]*)"', matchers)))
        for name, matchers in _SELECTOR.findall(expression)
    ]


def groupings(expression: str) -> Iterator[Grouping]:
    """Yield each `OPERATOR by (LABELS) (EXPRESSION)`; there is no other way to write them here."""
    found = list(_GROUPING.finditer(expression))
    assert len(found) == len(re.findall(r"\b(?:by|without)\b", expression)), expression
    for match in found:
        inner = expression[match.end() : _closing(expression, match.end())]
        labels = frozenset(re.findall(r"\w+", match.group(1)))
        yield Grouping(labels, frozenset(selector.metric for selector in selectors(inner)))


def _closing(expression: str, begin: int) -> int:
    depth = 1
    for place, character in enumerate(expression[begin:], begin):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return place
    raise AssertionError(f"not closed: {expression}")
