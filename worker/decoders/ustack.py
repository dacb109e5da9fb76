"""A stack of the target's, as flame graphs take it."""

import errno
import sys
from collections.abc import Iterator

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings

_MAX_FRAMES = 127  # PERF_MAX_STACK_DEPTH


class Ustack:
    """Names the functions of the stacks in a BPF_STACK_TRACE."""

    def __init__(self, surroundings: Surroundings, stack_table: str) -> None:
        self._symbols = surroundings.symbols
        self._read_stack = surroundings.read_stack
        self._stack_table = stack_table

    def __call__(self, raw: bytes) -> str:
        """Return the id in 4 or 8 bytes, as bpf_get_stackid gives it, as `main;handle;malloc`: the root first.

        Without offsets, as flamegraph.pl adds up what has one name; of a function without a name, its file. A stack
        that was not taken is `[lost: EFAULT]` (the target has none) or `[lost: EEXIST]` (the table had another one in
        its place), one that is gone `[lost: ENOENT]`. DecodeError for other sizes, and where usym has one.
        """
        if len(raw) not in (4, 8):
            raise DecodeError("ustack", raw, "4 or 8 bytes")
        # The helper's result has 32 bits of meaning, however wide and signed the key's field is.
        stack_id = int.from_bytes(raw, sys.byteorder) & 0xFFFF_FFFF
        if stack_id >= 1 << 31:
            number = (1 << 32) - stack_id
            return f"[lost: {errno.errorcode.get(number, number)}]"
        try:
            addresses = self._read_stack(self._stack_table, stack_id)
        except KeyError:
            return "[lost: ENOENT]"
        try:
            return ";".join(reversed(list(self._frames(addresses[:_MAX_FRAMES])))) or "[unknown]"
        except LookupError as error:
            raise DecodeError("ustack", raw, "a stack of a process that is there") from error

    def _frames(self, addresses: tuple[int, ...]) -> Iterator[str]:
        """Yield the names, the innermost first."""
        for depth, address in enumerate(addresses):
            # All but the innermost are return addresses, and what a function that never returns is called from may
            # end with the call: then the next byte is another function's.
            name = self._symbols.name(address - 1 if depth and address else address)
            yield name.rpartition("+0x")[0].replace(";", ":") or name
