"""Which targets the config wants, given the processes there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector, comm_of
from ebpf_userspace_exporter.supervisor.processes import Process, exec_mark, is_descendant
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target


@dataclass(frozen=True, slots=True)
class Definition:
    """A program of the config and its digest."""

    program: Program
    digest: str


def definitions(programs: Sequence[Program]) -> dict[str, Definition]:
    """Return the programs by name, each with its digest."""
    return {program.name: Definition(program, program.digest()) for program in programs}


def matches(attachment: Selector, process: Process) -> bool:
    """Whether a program with this attachment goes to that process."""
    return process.comm in map(comm_of, attachment.binary_name)


def desired_targets(
    wanted: Mapping[str, Definition], table: Mapping[int, Process], own_pid: int
) -> tuple[dict[Slot, Target], set[Slot], set[Slot]]:
    """Return the targets, and the slots of matching processes that are none: leader exited; exec mark unreadable.

    That a mark cannot be read tells nothing: it is so in the midst of an exec, and just before the end.

    Never among them: this process and whatever it has forked, which is builders, workers and the web.
    """
    targets: dict[Slot, Target] = {}
    leaderless: set[Slot] = set()
    unreadable: set[Slot] = set()
    marks: dict[int, ExecMark | None] = {}
    for name, definition in wanted.items():
        for process in table.values():
            if process.is_dead or not matches(definition.program.attachment, process):
                continue
            if is_descendant(process.pid, own_pid, table):
                continue
            slot = Slot(name, process.pid)
            if process.leader_exited:
                leaderless.add(slot)
                continue
            if process.pid not in marks:
                marks[process.pid] = exec_mark(process)
            mark = marks[process.pid]
            if mark is None:
                unreadable.add(slot)
            else:
                targets[slot] = Target(slot, definition.digest, process.start_ticks, mark)
    return targets, leaderless, unreadable
