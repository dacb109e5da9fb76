"""What the checks of a config have found; judgments that rest on a broken value are dropped."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ebpf_userspace_exporter.config.errors import KeyPath


@dataclass(slots=True)
class Findings:
    """Problems and warnings with their key paths; `broken` are the paths that hold a stand-in for a value."""

    broken: frozenset[KeyPath]
    problems: list[tuple[KeyPath, str]] = field(default_factory=list)
    warnings: list[tuple[KeyPath, str]] = field(default_factory=list)
    _around_broken: frozenset[KeyPath] = frozenset()
    _around_problems: set[KeyPath] = field(default_factory=set)

    def __post_init__(self) -> None:
        # Looked up, not searched: a file may have ten thousands of broken values, and as many judgments.
        self._around_broken = frozenset(start for path in self.broken for start in _starts(path))

    def problem(self, path: KeyPath, message: str, *relies_on: KeyPath) -> None:
        """Record a problem at `path`, unless what it relies on (by default, what is at `path`) is broken."""
        if self._is_sound(relies_on or (path,)):
            self.problems.append((path, message))
            self._around_problems.update(_starts(path))

    def warning(self, path: KeyPath, message: str, *relies_on: KeyPath) -> None:
        """Record what the operator should know, although it works."""
        if self._is_sound(relies_on or (path,)):
            self.warnings.append((path, message))

    def is_flawless(self, path: KeyPath) -> bool:
        """Whether nothing at `path` or below it has been found wrong so far."""
        return path not in self._around_broken and path not in self._around_problems

    def _is_sound(self, paths: tuple[KeyPath, ...]) -> bool:
        return not any(path in self._around_broken or not self.broken.isdisjoint(_starts(path)) for path in paths)


def _starts(path: KeyPath) -> Iterator[KeyPath]:
    """Yield the path and every path above it."""
    return (path[:length] for length in range(len(path) + 1))
