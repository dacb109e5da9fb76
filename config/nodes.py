"""YAML text becomes lists, mappings and text, with the line that each came from.

The text is composed to nodes and converted here: yaml.load would turn the keys 0x1, 010, 1:20 and on into 1, 8, 80 and
True, and drop duplicate keys without a word. Merge keys (`<<`) work as in YAML 1.1: a mapping's own keys win, then
the earlier of the merged mappings.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml
from yaml.error import MarkedYAMLError, YAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from ebpf_userspace_exporter.config.errors import ConfigError, KeyPath, Problem, quote

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"

MAX_DEPTH = 40
MAX_NODES = 50_000

_HALF = re.compile(r"[\ud800-\udfff]")  # an escape in quotes can make one; no file can hold it
_STANDARD = "tag:yaml.org,2002:"
_MERGE = _STANDARD + "merge"
_NULL = _STANDARD + "null"
_TAGS = frozenset(
    _STANDARD + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "seq", "map")
)


@dataclass(frozen=True, slots=True)
class Document:
    """A file's content; scalars are the text they have in the file, except for null, which is None."""

    source: str
    value: Value
    lines: Mapping[KeyPath, int]
    problems: tuple[Problem, ...]

    def line_of(self, path: KeyPath) -> int:
        """Return the line of the key path, or of the nearest thing above it that is in the file."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Return a problem at the key path."""
        return Problem(self.source, self.line_of(path), path, message)


def parse(source: str, text: str) -> Document:
    """Return the one document in `text`; ConfigError where it is no YAML or too much of it."""
    root = _compose(source, text)
    if root is None:
        return Document(source, None, {}, ())
    reader = _Reader(source)
    value = reader.convert(root, (), ())
    return Document(source, value, reader.lines, tuple(reader.problems))


class _Loader(yaml.SafeLoader):
    """Composes with bounds: PyYAML recurses for every level of nesting."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH or self.nodes > MAX_NODES:
            what = f"more than {MAX_DEPTH} levels deep" if self.depth > MAX_DEPTH else f"more than {MAX_NODES} nodes"
            raise _TooMuchError(None, None, what, self.peek_event().start_mark)  # type: ignore[no-untyped-call]  # stub lacks it
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _TooMuchError(MarkedYAMLError):
    pass


def _compose(source: str, text: str) -> Node | None:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ConfigError([Problem(source, line, (), f"character U+{code:04X} is not allowed in YAML")]) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError([Problem(source, mark.line + 1 if mark else None, (), _explain(error))]) from error
    except YAMLError as error:
        raise ConfigError([Problem(source, None, (), f"not YAML: {quote(str(error))}")]) from error


def _explain(error: MarkedYAMLError) -> str:
    if isinstance(error, _TooMuchError):
        return f"{error.problem}; is this a config?"
    if error.context == "expected a single document in the stream":
        return "a second document starts here; expected one"
    start = f" {error.context}" if error.context else ""
    if error.context_mark is not None and start:
        start += f" that starts in line {error.context_mark.line + 1}"
    return f"not YAML: {error.problem}{start}"


@dataclass(slots=True)
class _Reader:
    """Converts nodes; an alias counts as often as it is used, so that small files cannot become huge ones."""

    source: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    converted: int = 0

    def convert(self, node: Node, path: KeyPath, parents: tuple[Node, ...]) -> Value:
        self.lines.setdefault(path, _line(node))
        self._bound(node, path, parents)
        if node.tag not in _TAGS:
            self._report(node, path, f"tag {quote(node.tag)} is not supported")
        within = (*parents, node)
        match node:
            case ScalarNode():
                return None if node.tag == _NULL else self._text(node, path)
            case SequenceNode():
                return [self.convert(item, (*path, index), within) for index, item in enumerate(node.value)]
            case MappingNode():
                return self._mapping(node, path, within)
        raise AssertionError(node)

    def _mapping(self, node: MappingNode, path: KeyPath, parents: tuple[Node, ...]) -> Value:
        result: dict[str, Value] = {}
        for key, value in self._entries(node, path, parents):
            self.lines.setdefault((*path, key.value), _line(key))
            result[key.value] = self.convert(value, (*path, key.value), parents)
        return result

    def _text(self, node: ScalarNode, path: KeyPath) -> str:
        text = str(node.value)
        if _HALF.search(text):
            self._report(node, path, "holds half a character (U+D800 to U+DFFF), which is no text")
        return _HALF.sub("\ufffd", text)

    def _entries(
        self, node: MappingNode, path: KeyPath, parents: tuple[Node, ...]
    ) -> Iterator[tuple[ScalarNode, Node]]:
        """Yield keys with values, each key once, own keys before merged ones."""
        seen: dict[str, ScalarNode] = {}
        for key, value in node.value:
            if isinstance(key, ScalarNode) and _HALF.search(key.value):
                self._report(key, path, f"the key {quote(key.value)} holds half a character, which is no text")
                key.value = _HALF.sub("\ufffd", key.value)
            if not isinstance(key, ScalarNode):
                self._report(key, path, "a key is a list or a mapping; expected text")
            elif key.tag != _MERGE:
                if key.value in seen:
                    message = f"duplicate key, first in line {_line(seen[key.value])}"
                    self._report(key, (*path, key.value), message)
                else:
                    seen[key.value] = key
                    yield key, value
        for key, value in node.value:
            if key.tag == _MERGE:
                for key_merged, value_merged in self._merged(key, value, path, parents):
                    if key_merged.value not in seen:
                        seen[key_merged.value] = key_merged
                        yield key_merged, value_merged

    def _merged(
        self, key: Node, value: Node, path: KeyPath, parents: tuple[Node, ...]
    ) -> Iterator[tuple[ScalarNode, Node]]:
        for source in value.value if isinstance(value, SequenceNode) else [value]:
            if isinstance(source, MappingNode):
                self._bound(source, path, parents)
                yield from self._entries(source, path, (*parents, source))
            else:
                self._report(key, (*path, "<<"), "expected a mapping, or a list of mappings, to merge")

    def _bound(self, node: Node, path: KeyPath, parents: tuple[Node, ...]) -> None:
        self.converted += 1
        if any(parent is node for parent in parents):
            raise ConfigError([Problem(self.source, _line(node), path, "an alias contains itself")])
        if len(parents) > MAX_DEPTH or self.converted > MAX_NODES:
            what = "more than {} {}; is this a config?".format(
                *((MAX_DEPTH, "levels deep") if len(parents) > MAX_DEPTH else (MAX_NODES, "nodes, aliases counted"))
            )
            raise ConfigError([Problem(self.source, _line(node), (), what)])

    def _report(self, node: Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self.source, _line(node), path, message))


def _line(node: Node) -> int:
    return node.start_mark.line + 1
