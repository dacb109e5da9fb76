"""What comes out when a selector is held against a process."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from ebpf_userspace_exporter.config.errors import KeyPath, escape, path_text

MAX_SHOWN = 200


class Outcome(IntEnum):
    """Kleene's three values, in an order in which the least is their conjunction and the greatest their disjunction.

    What cannot be read is unknown: it does not match, nor does `not` of it.
    """

    DOES_NOT = 0
    UNKNOWN = 1
    MATCHES = 2

    @property
    def opposite(self) -> "Outcome":
        """What `not` makes of it."""
        return Outcome(Outcome.MATCHES - self)

    def __str__(self) -> str:
        return ("does not match", "unknown", "matches")[self]


@dataclass(frozen=True, slots=True)
class Step:
    """One key held against one process, which with `parent` and `ancestor` is another one than was asked about."""

    pid: int
    path: KeyPath
    expected: str
    found: str
    outcome: Outcome

    @property
    def key(self) -> str:
        """The key path as people write it: `parent.cmdline[0]`."""
        return path_text(self.path)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a process is meant, and how long that will hold.

    `groups` are the named groups of its command line. `is_changeable` says that something was read which may be
    different the next time; `ripe_in` are the seconds until a `min_age` is reached, infinity where none is pending.
    """

    outcome: Outcome
    groups: Mapping[str, str]
    is_changeable: bool
    ripe_in: float
    steps: tuple[Step, ...]


def shown(value: object, separator: str) -> str:
    """Return what was expected or found as text on one line, not longer than an explanation can bear."""
    text = separator.join(map(_written, value)) if isinstance(value, list | tuple) else str(value)
    return escape(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…")


def _written(value: object) -> str:
    """Return a range of ports as people write it, and anything else as it is."""
    if isinstance(value, tuple):
        first, last = value
        return f"{first}" if first == last else f"{first}-{last}"
    return str(value)
