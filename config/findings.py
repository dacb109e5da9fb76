"""What the checks of a config have found; judgments that rest on a broken value are dropped."""

from dataclasses import dataclass, field

from ebpf_userspace_exporter.config.errors import KeyPath


@dataclass(slots=True)
class Findings:
    """Problems and warnings with their key paths; `broken` are the paths that hold a stand-in for a value."""

    broken: frozenset[KeyPath]
    problems: list[tuple[KeyPath, str]] = field(default_factory=list)
    warnings: list[tuple[KeyPath, str]] = field(default_factory=list)

    def problem(self, path: KeyPath, message: str, *relies_on: KeyPath) -> None:
        """Record a problem at `path`, unless what it relies on (by default, what is at `path`) is broken."""
        if self._is_sound(relies_on or (path,)):
            self.problems.append((path, message))

    def warning(self, path: KeyPath, message: str, *relies_on: KeyPath) -> None:
        """Record what the operator should know, although it works."""
        if self._is_sound(relies_on or (path,)):
            self.warnings.append((path, message))

    def _is_sound(self, paths: tuple[KeyPath, ...]) -> bool:
        return not any(_is_within(path, bad) or _is_within(bad, path) for path in paths for bad in self.broken)


def _is_within(path: KeyPath, other: KeyPath) -> bool:
    return path[: len(other)] == other
