"""What a program's decoders are given to know of their target."""

import contextlib
from collections.abc import Callable

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings, Symbols
from ebpf_userspace_exporter.worker.symbols.symbolizer import Symbolizer

_NAMING = frozenset({"usym", "ustack"})


def look_around(
    program: Program,
    pid: int,
    read_stack: Callable[[str, int], tuple[int, ...]],
    stack: contextlib.ExitStack,
) -> Surroundings:
    """Return the surroundings of process `pid`; what they hold open is closed with `stack`.

    Its symbols are looked at only if the program has a decoder for them. AttachError or TargetGone as Symbolizer.
    """
    symbols: Symbols = _Addresses()
    if any(
        decoder.name in _NAMING
        for metric in program.metrics.all
        for label in metric.labels
        for decoder in label.decoders
    ):
        symbols = stack.enter_context(contextlib.closing(Symbolizer(pid)))
    return Surroundings(pid, symbols, read_stack)


class _Addresses:
    """Names nothing."""

    def name(self, address: int) -> str:
        """Return the address in hexadecimal digits."""
        return hex(address)
