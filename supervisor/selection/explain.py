"""Says why a process is, or is not, what the programs of a config go to."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.config.target_labels import target_labels
from ebpf_userspace_exporter.supervisor.processes import Process
from ebpf_userspace_exporter.supervisor.selection.evaluate import evaluate
from ebpf_userspace_exporter.supervisor.selection.labels import Labels, render
from ebpf_userspace_exporter.supervisor.selection.observation import Observation
from ebpf_userspace_exporter.supervisor.selection.verdict import Outcome, Step


@dataclass(frozen=True, slots=True)
class ProgramExplanation:
    """Whether a program's `attachment` means the process, key by key; the labels are those it has or would have."""

    program: str
    outcome: Outcome
    steps: tuple[Step, ...]
    labels: Labels


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Whether a selector of `exclude` takes the process away from every program, key by key."""

    outcome: Outcome
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a config makes of one process."""

    process: Process
    exclusions: tuple[Exclusion, ...]
    programs: tuple[ProgramExplanation, ...]

    @property
    def is_excluded(self) -> bool:
        """Whether it is nobody's target, whatever the programs say."""
        return any(exclusion.outcome is Outcome.MATCHES for exclusion in self.exclusions)


def explain(
    programs: Iterable[Program], exclude: Iterable[Selector], pid: int, table: Mapping[int, Process]
) -> Explanation | None:
    """Return what the config makes of the process, None where the table does not have it."""
    process = table.get(pid)
    if process is None:
        return None
    observation = Observation(table, time.monotonic())
    return Explanation(
        process,
        tuple(_exclusion(selector, process, observation) for selector in exclude),
        tuple(_program(program, process, observation) for program in programs),
    )


def _exclusion(selector: Selector, process: Process, observation: Observation) -> Exclusion:
    verdict = evaluate(selector, process, observation, explain=True)
    return Exclusion(verdict.outcome, verdict.steps)


def _program(program: Program, process: Process, observation: Observation) -> ProgramExplanation:
    verdict = evaluate(program.attachment, process, observation, explain=True)
    labels = render(target_labels(program), observation.facts(process), verdict.groups)
    return ProgramExplanation(program.name, verdict.outcome, verdict.steps, labels)
