"""What a worker is for: one program on one process, told apart from every other use of that process's number."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecMark:
    """Changes when the process executes another program, which changes neither its number nor its start time."""

    start_stack: int
    arg_start: int
    exe_device: int
    exe_inode: int

    def is_same_file(self, other: "ExecMark") -> bool:
        """Whether both execute the same file."""
        return (self.exe_device, self.exe_inode) == (other.exe_device, other.exe_inode)


@dataclass(frozen=True, slots=True)
class Slot:
    """A program's place for one process: its metric files. One worker at a time writes them."""

    program: str
    pid: int


@dataclass(frozen=True, slots=True)
class Target:
    """One program on one process; `start_ticks` tells a reused PID apart, `exec_mark` an exec.

    `definition` is the program's digest: a changed program is another target. `labels` are what its series have beside
    the metrics' own labels.
    """

    slot: Slot
    definition: str
    start_ticks: int
    exec_mark: ExecMark
    labels: tuple[tuple[str, str], ...] = ()

    def is_same_process(self, other: "Target") -> bool:
        """Whether both are of one process that has executed nothing else meanwhile."""
        return self is other or (
            (self.slot, self.start_ticks, self.exec_mark) == (other.slot, other.start_ticks, other.exec_mark)
        )
