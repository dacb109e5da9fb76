"""The cgroups of this machine."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ebpf_userspace_exporter.worker.decoders.text import as_text

_MOUNTS = Path("/proc/self/mountinfo")
_MAX_CGROUPS = 65_536
_FRESH_SECONDS = 0.2  # walking a thousand cgroups takes ten milliseconds
_LINKS_OF_A_LEAF = 2


class Cgroups:
    """The paths of the cgroups of version 2, as in /proc/PID/cgroup, by their ids.

    A cgroup's id is its folder's inode number, from kernel 5.5 on and on 64-bit machines. Those of version 1 have
    numbers of their own, which no BPF program gets. In a container it sees what is mounted there.
    """

    def __init__(self, mounts: Path = _MOUNTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._mounts = mounts
        self._clock = clock
        self._paths: dict[int, str] = {}
        self._read_at = float("-inf")

    def path(self, cgroup_id: int) -> str | None:
        """Return the cgroup's path: `/system.slice/nginx.service`, `/`; None if it sees none with this id.

        Ids are never used again and cgroups of version 2 never renamed, so that it looks only for those that it does
        not know: again and again, but not more often than every 0.2 seconds.
        """
        if cgroup_id not in self._paths:
            now = self._clock()
            if now - self._read_at >= _FRESH_SECONDS:
                self._read_at = now
                self._paths = self._read()
        return self._paths.get(cgroup_id)

    def _read(self) -> dict[int, str]:
        paths: dict[int, str] = {}
        for mount in self._mount_points():
            with contextlib.suppress(OSError):
                root = mount.stat().st_ino
                if root in paths:  # the same again, or a part of what was read: it would cut the paths
                    continue
                paths[root] = "/"
                _read_below(os.fsencode(mount), paths)
        return paths

    def _mount_points(self) -> Iterator[Path]:
        for line in self._mounts.read_text(errors="surrogateescape").splitlines():
            mount, _, source = line.partition(" - ")
            if source.startswith("cgroup2 "):
                yield Path(mount.split()[4])


def _read_below(top: bytes, paths: dict[int, str]) -> None:
    waiting = [top]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:  # a cgroup may go any time
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                if len(paths) >= _MAX_CGROUPS:
                    return
                status = entry.stat(follow_symlinks=False)
                paths[status.st_ino] = as_text(entry.path[len(top) :])
                if status.st_nlink != _LINKS_OF_A_LEAF:  # else there are only files in it, some fifty
                    waiting.append(entry.path)
