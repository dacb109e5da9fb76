"""A system call's number."""

from collections.abc import Callable

from ebpf_userspace_exporter.worker.decoders.number import as_number


class Syscall:
    """Gives system calls the names that `name_of` has for their numbers."""

    def __init__(self, name_of: Callable[[int], str | None]) -> None:
        self._name_of = name_of

    def __call__(self, raw: bytes) -> str:
        """Return 4 or 8 bytes as the call's name, `unknown:NUMBER` if it has none; DecodeError for other sizes."""
        number = as_number("syscall", raw, 4, 8)
        return self._name_of(number) or f"unknown:{number}"
