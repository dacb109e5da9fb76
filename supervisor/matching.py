"""Which targets the config wants, given the processes there are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.config.target_labels import target_labels
from ebpf_userspace_exporter.supervisor.processes import Process, descendants, exec_mark
from ebpf_userspace_exporter.supervisor.selection.facts import Facts
from ebpf_userspace_exporter.supervisor.selection.judge import Judge, Judgement, Wanted
from ebpf_userspace_exporter.supervisor.selection.labels import Labels
from ebpf_userspace_exporter.supervisor.selection.limits import within_limit
from ebpf_userspace_exporter.supervisor.selection.observation import Observation, ReadFacts
from ebpf_userspace_exporter.supervisor.targets import Slot, Target


@dataclass(frozen=True, slots=True)
class Definition:
    """A program of the config and its digest."""

    program: Program
    digest: str


def definitions(programs: Sequence[Program]) -> dict[str, Definition]:
    """Return the programs by name, each with its digest."""
    return {program.name: Definition(program, program.digest()) for program in programs}


@dataclass(frozen=True, slots=True)
class Look:
    """What the processes make of the config.

    `leaderless` and `unreadable` are the slots of matching processes that are no targets: the first thread has exited;
    what is executed cannot be told, as in the midst of an exec, and just before the end. `left_out` is how many
    targets more there would be without max_targets, of each program that has reached it.
    """

    targets: dict[Slot, Target]
    leaderless: frozenset[Slot]
    unreadable: frozenset[Slot]
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Known:
    """A target, and the line of the table that it was made of."""

    process: Process
    target: Target


class Matcher:
    """Remembers every process, so that a look at those that have not changed reads nothing about them."""

    def __init__(
        self,
        programs: Mapping[str, Definition],
        exclude: Sequence[Selector] = (),
        *,
        rescan_seconds: float,
        read_facts: ReadFacts = Facts,
    ) -> None:
        self._rescan_seconds = rescan_seconds
        self._read_facts = read_facts
        self._judgements: dict[int, Judgement] = {}
        self._own: set[int] = set()
        self._known: dict[tuple[str, int], _Known] = {}  # by digest and pid
        self.define(programs, exclude)

    def define(self, programs: Mapping[str, Definition], exclude: Sequence[Selector] = ()) -> None:
        """Match other programs from now on; the labels that targets of the same programs have are kept."""
        self._programs = {definition.digest: definition.program for definition in programs.values()}
        wanted = {digest: Wanted(each.attachment, target_labels(each)) for digest, each in self._programs.items()}
        self._judge = Judge(wanted, exclude, rescan_seconds=self._rescan_seconds)
        self._judgements = {pid: judgement.outdated(wanted) for pid, judgement in self._judgements.items()}

    def look(self, table: Mapping[int, Process], now: float, own_pid: int, known: Set[Slot] = frozenset()) -> Look:
        """Return what the processes make of the config; `known` are the slots that have been taken up.

        Nobody's target is `own_pid` or what it has forked, which is builders, workers and the web. `now` is in
        seconds of the monotonic clock.
        """
        self._own = descendants(own_pid, table)
        self._judge_all(table, now)
        candidates: dict[str, list[Target]] = {digest: [] for digest in self._programs}
        leaderless, unreadable = set[Slot](), set[Slot]()
        found: dict[tuple[str, int], _Known] = {}
        for digest, process, labels in self._matching(table):
            if process.leader_exited:
                leaderless.add(self._slot(digest, process))
            elif (known_as := self._target(digest, process, labels)) is None:
                unreadable.add(self._slot(digest, process))
            else:
                found[digest, process.pid] = known_as
                candidates[digest].append(known_as.target)
        self._known = found
        targets: dict[Slot, Target] = {}
        left_out: dict[str, int] = {}
        for digest, program in self._programs.items():
            taken = sum(slot.program == program.name for slot in known & (leaderless | unreadable))
            kept = within_limit(candidates[digest], max(0, program.max_targets - taken), known)
            targets.update((target.slot, target) for target in kept)
            if len(kept) < len(candidates[digest]):
                left_out[program.name] = len(candidates[digest]) - len(kept)
        return Look(targets, frozenset(leaderless), frozenset(unreadable), left_out)

    def may_mean(self, comm: str) -> bool:
        """Whether a process of that name may be a target."""
        return self._judge.may_mean(comm)

    def concerns(self, pids: Iterable[int], table: Mapping[int, Process], now: float) -> bool:
        """Judge these processes alone; return whether a program means, or meant, one that has changed: look then.

        Many times a second something is executed that nobody wants, and a look at all would cost more than that.
        """
        observation = Observation(table, now, self._read_facts)
        is_due = False
        for pid in pids:
            before, process = self._judgements.pop(pid, None), table.get(pid)
            if process is None or process.is_dead or process.ppid in self._own:
                continue  # of a target its pidfd tells the end; what we fork is for the next look to know
            judgement = self._judgements[pid] = self._judgement(process, before, observation, now)
            if judgement is not before or process.leader_exited:
                is_due |= bool(judgement.matched or (before is not None and before.matched))
        return is_due

    def _judge_all(self, table: Mapping[int, Process], now: float) -> None:
        observation = Observation(table, now, self._read_facts)
        judgements: dict[int, Judgement] = {}
        for pid, process in table.items():
            if process.is_dead or pid in self._own:
                continue
            judgements[pid] = self._judgement(process, self._judgements.get(pid), observation, now)
        self._judgements = judgements

    def _judgement(self, process: Process, before: Judgement | None, observation: Observation, now: float) -> Judgement:
        if before is not None and before.holds(process, now):
            return before
        return self._judge.judge(process, before, observation, now)

    def _slot(self, digest: str, process: Process) -> Slot:
        return Slot(self._programs[digest].name, process.pid)

    def _target(self, digest: str, process: Process, labels: Labels) -> _Known | None:
        """Return the target that a process is, the same one for as long as nothing is new; None if it cannot be told.

        What it executes is asked when its line in the table was read again, as after every exec. A thousand targets are
        looked at many times a second where others come and go.
        """
        before = self._known.get((digest, process.pid))
        if before is not None and before.process is process and before.target.labels is labels:
            return before
        mark = exec_mark(process)
        if mark is None:
            return None
        target = Target(self._slot(digest, process), digest, process.start_ticks, mark, labels)
        return _Known(process, before.target if before is not None and before.target == target else target)

    def _matching(self, table: Mapping[int, Process]) -> Iterator[tuple[str, Process, Labels]]:
        """Yield a program's digest, a process that it matches, and the labels."""
        for pid, judgement in self._judgements.items():
            if not judgement.is_excluded:
                for digest in judgement.matched & self._programs.keys():
                    yield digest, table[pid], judgement.labels[digest]
