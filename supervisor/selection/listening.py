"""On which TCP ports a process listens."""

import contextlib
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

_LISTEN = b"0A"  # TCP_LISTEN of net/tcp_states.h
_SOCKET = re.compile(r"socket:\[([0-9]+)\]")
_MAX_DESCRIPTORS = 16_384  # looked at, the lowest first: who listens does so early, and anybody may have half a million


class ListeningSockets:
    """The sockets that listen, by network namespace: the table of each namespace is read once.

    psutil looks every process's sockets up in the table of our own namespace, and reads that table for each of them.
    """

    def __init__(self) -> None:
        self._ports: dict[int, dict[int, int]] = {}
        self._tables = [table for table in ("tcp", "tcp6") if Path("/proc/self/net", table).exists()]  # or no IPv6 here

    def ports(self, pid: int) -> tuple[int, ...]:
        """Return the ports on which the process listens, over IPv4 or IPv6, in ascending order; OSError.

        A socket that was made in another network namespace than the one the process is in is not seen.
        """
        namespace = os.stat(f"/proc/{pid}/ns/net").st_ino  # noqa: PTH116 - a link that leads nowhere pathlib could go
        if namespace not in self._ports:
            self._ports[namespace] = dict(self._listening(pid))
        port_of = self._ports[namespace]
        return tuple(sorted({port_of[inode] for inode in _sockets(pid) if inode in port_of})) if port_of else ()

    def _listening(self, pid: int) -> Iterator[tuple[int, int]]:
        """Yield inode and port of each socket that listens in the network namespace of the process."""
        for table in self._tables:
            with open(f"/proc/{pid}/net/{table}", "rb") as lines:  # noqa: PTH123 - as often as stat
                next(lines, None)
                for line in lines:
                    fields = line.split()
                    if fields[3] != _LISTEN:
                        break  # those that listen come first, and connections may be a hundred thousand
                    yield int(fields[9]), int(fields[1].rpartition(b":")[2], 16)


def _sockets(pid: int) -> Iterator[int]:
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        for descriptor in islice(descriptors, _MAX_DESCRIPTORS):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if match := _SOCKET.fullmatch(os.readlink(descriptor.path)):  # noqa: PTH115 - thousands of them
                    yield int(match.group(1))
