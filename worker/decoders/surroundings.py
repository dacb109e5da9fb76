"""What decoders may need to know of the target beyond a key's bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Symbols(Protocol):
    """Names addresses in the target's memory."""

    def name(self, address: int) -> str:
        """Return `function+0x12`, or `libfoo.so+0x1234` where nothing is known but the file.

        LookupError where the process was gone before it could be looked at, and only then.
        """


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The target's `pid`, its symbols, and its stacks: (name of a BPF_STACK_TRACE, stack id) -> addresses, KeyError."""

    pid: int
    symbols: Symbols
    read_stack: Callable[[str, int], tuple[int, ...]]
