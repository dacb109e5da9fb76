"""Judges processes, and remembers for how long a judgement holds, so that those that do not change are not read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from ebpf_userspace_exporter.config.selector import Selector, comm_of
from ebpf_userspace_exporter.config.target_labels import Template
from ebpf_userspace_exporter.supervisor.processes import Process
from ebpf_userspace_exporter.supervisor.selection.evaluate import evaluate
from ebpf_userspace_exporter.supervisor.selection.labels import Labels, render
from ebpf_userspace_exporter.supervisor.selection.observation import Observation
from ebpf_userspace_exporter.supervisor.selection.verdict import Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which processes a program goes to, and how its targets are labelled."""

    attachment: Selector
    templates: Mapping[str, Template]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Which programs, by digest, mean a process as it was then; times are of the monotonic clock.

    `labels` are of every program that has matched since the process executed what it executes: a title that changes
    does not end series. `due` has when a program is to be held against it again, if that may come out differently.
    """

    process: Process
    matched: frozenset[str]
    is_excluded: bool
    labels: Mapping[str, Labels]
    due: Mapping[str, float]
    recheck_at: float

    def holds(self, process: Process, now: float) -> bool:
        """Whether it still says what is true of the process."""
        before = self.process
        if process.start_ticks != before.start_ticks:
            return False
        if process.leader_exited or (before.start_stack and not process.start_stack):
            return True  # no memory: it is exiting, or in the midst of an exec; what is read now tells nothing
        return now < self.recheck_at and _is_same(before, process)

    def outdated(self, digests: Iterable[str]) -> "Judgement":
        """Return what of it is left where other programs are wanted than those it was about."""
        return replace(self, due=dict.fromkeys(digests, -inf), recheck_at=-inf)


class Judge:
    """Holds all programs, and what is excluded, against one process after another.

    An exec or a new name is noticed at the next look. What can change without is read again when the process is twice
    as old as it was, and every `rescan_seconds` in the end: a child sets its title right after the fork, if at all.
    """

    def __init__(self, wanted: Mapping[str, Wanted], exclude: Sequence[Selector], *, rescan_seconds: float) -> None:
        self._wanted = wanted
        self._names = {digest: {*map(comm_of, each.attachment.binary_name)} for digest, each in wanted.items()}
        self._any_name = not all(self._names.values())
        self._all_names = frozenset[str]().union(*self._names.values())
        self._exclude = exclude
        self._rescan_seconds = rescan_seconds

    def may_mean(self, comm: str) -> bool:
        """Whether a process of that name may be one that a program goes to."""
        return self._any_name or comm in self._all_names

    def judge(self, process: Process, before: Judgement | None, observation: Observation, now: float) -> Judgement:
        """Return what is true of the process now; `before` is the last judgement on whatever had its pid."""
        if before is None or not _is_same(before.process, process):
            asked, matched, due = set(self._wanted), set[str](), dict[str, float]()
        else:
            asked = {digest for digest, at in before.due.items() if at <= now and digest in self._wanted}
            matched = set((before.matched - asked) & self._wanted.keys())
            due = {digest: at for digest, at in before.due.items() if digest not in asked}
        labels = dict[str, Labels]()
        if before is not None and _executes_the_same(before.process, process):
            labels = {digest: each for digest, each in before.labels.items() if digest in self._wanted}
        for digest in asked:
            if self._names[digest] and process.comm not in self._names[digest]:
                continue  # as evaluate would say, of most processes, and with many programs that adds up
            wanted = self._wanted[digest]
            verdict = evaluate(wanted.attachment, process, observation)
            if (at := self._recheck_at(verdict, process, observation, now)) < inf:
                due[digest] = at
            if verdict.outcome is Outcome.MATCHES:
                matched.add(digest)
                if digest not in labels:
                    labels[digest] = render(wanted.templates, observation.facts(process), verdict.groups)
        # Asked last, as most processes are nobody's anyway.
        verdicts = [evaluate(selector, process, observation) for selector in self._exclude] if matched else []
        rechecks = [self._recheck_at(verdict, process, observation, now) for verdict in verdicts]
        return Judgement(
            process=process,
            matched=frozenset(matched),
            is_excluded=any(verdict.outcome is Outcome.MATCHES for verdict in verdicts),
            labels=labels,
            due=due,
            recheck_at=min([*due.values(), *rechecks], default=inf),
        )

    def _recheck_at(self, verdict: Verdict, process: Process, observation: Observation, now: float) -> float:
        changes_in = min(max(0.0, observation.age_seconds(process)), self._rescan_seconds)
        return now + min(changes_in if verdict.is_changeable else inf, verdict.ripe_in)


def _is_same(before: Process, process: Process) -> bool:
    """Whether nothing about it is new that its line in the table shows."""
    return (before.comm, before.ppid) == (process.comm, process.ppid) and _executes_the_same(before, process)


def _executes_the_same(before: Process, process: Process) -> bool:
    return (before.start_ticks, before.start_stack, before.arg_start) == (
        process.start_ticks,
        process.start_stack,
        process.arg_start,
    )
