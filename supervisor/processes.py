"""The process table: who runs now, and how to tell that it is still the same one."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import psutil

from ebpf_userspace_exporter.supervisor.targets import ExecMark

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PF_KTHREAD = 0x00200000  # linux/sched.h


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the table; the numbers are raw fields of /proc/PID/stat (man 5 proc)."""

    pid: int
    ppid: int
    comm: str
    state: str
    threads: int
    start_ticks: int
    start_stack: int
    arg_start: int

    @property
    def is_dead(self) -> bool:
        """Nothing of it runs any more; its parent has not asked for its status yet."""
        return self.state in "ZX" and self.threads <= 1

    @property
    def leader_exited(self) -> bool:
        """Its first thread has ended and others run: the kernel would accept a link and count nothing."""
        return self.state == "Z" and self.threads > 1


class ProcessTable:
    """Every process as it was read last; to read them all each time would be most of what looking costs."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self._unread: list[int] = []

    def renew(self, share: float) -> list[Process]:
        """Take in who has gone and who has come, and read `share` of the others again, in turns; return who has come.

        OSError if /proc cannot be listed.
        """
        listed = set(psutil.pids())
        for pid in self.processes.keys() - listed:
            del self.processes[pid]
        turn = self._turn(share)
        orphans = [process.pid for process in self.processes.values() if process.ppid and process.ppid not in listed]
        come = listed - self.processes.keys()
        self.read([*come, *orphans, *turn])
        return [self.processes[pid] for pid in come if pid in self.processes]

    def read(self, pids: Iterable[int]) -> None:
        """Read these now."""
        for pid in pids:
            process = read_process(pid)
            if process is None:
                self.processes.pop(pid, None)
            else:
                self.processes[pid] = process

    def _turn(self, share: float) -> list[int]:
        if share >= 1:
            return list(self.processes)
        unread = [pid for pid in self._unread if pid in self.processes] or list(self.processes)
        number = ceil(len(self.processes) * share)
        turn, self._unread = unread[:number], unread[number:]
        return turn


def process_table() -> dict[int, Process]:
    """Return every process that /proc shows; one that leaves while we look is left out."""
    table = ProcessTable()
    table.renew(1)
    return table.processes


def read_process(pid: int) -> Process | None:
    """Return what /proc/PID/stat says, or None when the process is gone.

    psutil's create_time moves with the wall clock and its name() is completed from the command line; the raw
    start ticks and the raw comm are neither.
    """
    line = _read(pid, "stat")
    return None if line is None else parse_stat(pid, line)


def read_comm(pid: int) -> str | None:
    """Return the process's name, for a third of what all of it costs; None when it is gone."""
    name = _read(pid, "comm")
    return None if name is None else os.fsdecode(name.removesuffix(b"\n"))


def _read(pid: int, name: str) -> bytes | None:
    try:
        descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)  # a file object costs a quarter more
        try:
            return os.read(descriptor, 4096)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def parse_stat(pid: int, line: bytes) -> Process:
    """Parse one /proc/PID/stat; the name in it may hold anything, parentheses and spaces included."""
    opening, closing = line.index(b"("), line.rindex(b")")
    comm = line[opening + 1 : closing]
    if b"\\" in comm:
        # stat, unlike comm, writes a newline and a backslash as escapes.
        comm = comm.replace(b"\\n", b"\n").replace(b"\\\\", b"\\")
    fields = line[closing + 2 :].split()
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        comm=os.fsdecode(comm),
        state=fields[0].decode(),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        start_stack=int(fields[25]),
        arg_start=int(fields[45]),
    )


def is_kernel_thread(pid: int) -> bool:
    """Whether it is a thread of the kernel's own, which has neither memory nor files; False where it is gone."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return bool(int(line[line.rindex(b")") + 2 :].split()[6]) & _PF_KTHREAD)


def exec_mark(process: Process) -> ExecMark | None:
    """Return the mark of the program that the process executes now; None if it has none or it cannot be read."""
    try:
        exe = os.stat(f"/proc/{process.pid}/exe")  # noqa: PTH116 - as above
    except OSError:
        return None
    return ExecMark(process.start_stack, process.arg_start, exe.st_dev, exe.st_ino)


def age_seconds(process: Process, uptime: float) -> float:
    """Return for how long the process has been running; `uptime` is in seconds of CLOCK_BOOTTIME."""
    return uptime - process.start_ticks / _TICKS_PER_SECOND


def descendants(ancestor: int, table: Mapping[int, Process]) -> set[int]:
    """Return the pids of `ancestor` and of whatever was forked, through any number of parents, by it."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.ppid, []).append(process.pid)
    found, unseen = {ancestor}, [ancestor]
    while unseen:
        new = [pid for pid in children.get(unseen.pop(), ()) if pid not in found]  # circles: pids are used again
        found.update(new)
        unseen += new
    return found
