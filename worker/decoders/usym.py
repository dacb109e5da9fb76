"""An address in the target, such as a return address, as function and offset."""

import sys

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings


class Usym:
    """Names addresses by the files that the target maps."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._symbols = surroundings.symbols

    def __call__(self, raw: bytes) -> str:
        """Return 8 bytes in the host's byte order as `function+0x12`, or what else `Symbols` has; DecodeError.

        An error too where the target was gone before it could be looked at: a name that means nothing would count
        again what a predecessor has counted under the real one.
        """
        if len(raw) != 8:
            raise DecodeError("usym", raw, "8 bytes")
        try:
            return self._symbols.name(int.from_bytes(raw, sys.byteorder))
        except LookupError as error:
            raise DecodeError("usym", raw, "an address in a process that is there") from error
