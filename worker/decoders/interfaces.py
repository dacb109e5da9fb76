"""The network interfaces that a process has."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from ebpf_userspace_exporter.worker.decoders.text import as_text

_TABLES = ("igmp", "igmp6")
_MAX_TABLE_BYTES = 4 << 20  # some ten thousand interfaces
_FRESH_SECONDS = 0.1


class Interfaces:
    """The names of the interfaces in the network namespace of the process `pid`.

    They are read from /proc/PID/net, which is of that namespace whoever reads it, so that nobody enters it. (The sysfs
    that the process has mounted may be of another one.) The only tables there with index and name are those of
    multicast groups. So it sees each interface that has IPv6, up or down, and each that is up and has IPv4; it does not
    see one that has neither, as a CAN bus, nor the interfaces of a thread that has left the process's namespace. What
    was last seen of a process stays when it is gone.
    """

    def __init__(self, pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = Path(f"/proc/{pid}/net")
        self._clock = clock
        self._names: dict[int, str] = {}
        self._read_at = float("-inf")

    def name(self, index: int) -> str | None:
        """Return the interface's name, not older than 0.1 seconds; None if it sees no such interface."""
        now = self._clock()
        if now - self._read_at >= _FRESH_SECONDS:
            self._read_at = now
            self._names = self._read() or self._names
        return self._names.get(index)

    def _read(self) -> dict[int, str]:
        names = {}
        for table in _TABLES:
            with contextlib.suppress(OSError), (self._folder / table).open("rb") as lines:
                for line in lines.readlines(_MAX_TABLE_BYTES):
                    if line[:1].isdigit():  # else a heading, or a group of the interface before
                        index, name, *_ = line.split()
                        names[int(index)] = as_text(name.removesuffix(b":"))
        return names
