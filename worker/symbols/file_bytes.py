"""A file's bytes, read as they are asked for."""

import os

from ebpf_userspace_exporter.worker.elf import ElfError


class FileBytes:
    """An open file as `Elf` takes it, which owns the descriptor.

    Not mapped: a library that somebody overwrites in place shrinks for a moment, and reading a mapping then is SIGBUS.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice, /) -> bytes:
        begin, end, _ = span.indices(self._size)
        try:
            read = os.pread(self._fd, max(0, end - begin), begin)
        except OSError as error:
            raise ElfError(f"the file cannot be read: {error.strerror}") from error
        if len(read) < end - begin:
            raise ElfError("the file shrank")
        return read

    def find(self, wanted: bytes, begin: int, end: int, /) -> int:
        """Return where `wanted` is between `begin` and `end`, -1 where it is not."""
        at = self[begin:end].find(wanted)
        return at if at < 0 else begin + at

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
