"""Tells readers when several metric files change as one."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ebpf_userspace_exporter.supervisor.state_dir import EPOCH, StateDir

_NUMBER = struct.Struct("=Q")


class Epoch:
    """A number in the state directory that is odd while files are put in each other's place.

    A reader that finds it odd, or changed when it is through, reads again: it has seen some of the old files and some
    of the new. Nobody waits for a reader.
    """

    def __init__(self, state_dir: StateDir, group: int | None) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(EPOCH, flags, mode=0o640, dir_fd=state_dir.descriptor)
        if group is not None:
            os.fchown(self._descriptor, -1, group)
        self._number = 0
        self._advance(0)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Have what is done within seen whole or not at all."""
        self._advance(1)
        try:
            yield
        finally:
            self._advance(1)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _advance(self, steps: int) -> None:
        os.pwrite(self._descriptor, _NUMBER.pack(self._number + steps), 0)
        self._number += steps
