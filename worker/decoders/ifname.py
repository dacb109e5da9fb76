"""A network interface's index."""

from collections.abc import Callable

from ebpf_userspace_exporter.worker.decoders.number import as_number


class Ifname:
    """Gives network interfaces the names that `name_of` has for their indexes."""

    def __init__(self, name_of: Callable[[int], str | None]) -> None:
        self._name_of = name_of

    def __call__(self, raw: bytes) -> str:
        """Return 4 bytes as the interface's name, `unknown:INDEX` if it has none; DecodeError for other sizes."""
        index = as_number("ifname", raw, 4)
        return self._name_of(index) or f"unknown:{index}"
