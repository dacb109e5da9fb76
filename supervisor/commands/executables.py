"""The executables of a program's targets: what is built for one process serves all that execute the same file."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from ebpf_userspace_exporter.supervisor.targets import Target


@dataclass(frozen=True, slots=True)
class Executable:
    """A file by the name that the first process has for it, empty where that cannot be told; pids in order."""

    path: str
    pids: tuple[int, ...]

    def __str__(self) -> str:
        others = f" and {len(self.pids) - 1} more" if len(self.pids) > 1 else ""
        process = f"process {self.pids[0]}{others}"
        return f"{self.path} ({process})" if self.path else process


def executables(targets: Iterable[Target]) -> list[Executable]:
    """Return what the targets execute, each file once, that of the lowest pid first."""
    pids: dict[tuple[int, int], list[int]] = {}
    for target in sorted(targets, key=lambda target: target.slot.pid):
        mark = target.exec_mark
        pids.setdefault((mark.exe_device, mark.exe_inode), []).append(target.slot.pid)
    return [Executable(_path(same[0]), tuple(same)) for same in pids.values()]


def _path(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - the name may hold anything
    except OSError:
        return ""
