"""`match`: which live processes a config's programs go to, and why, or why not."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ebpf_userspace_exporter.config.errors import ConfigError, escape
from ebpf_userspace_exporter.config.load import load_config
from ebpf_userspace_exporter.config.model import Config
from ebpf_userspace_exporter.supervisor.commands.tables import complain, show_json, show_table, show_text
from ebpf_userspace_exporter.supervisor.matching import Matcher, definitions
from ebpf_userspace_exporter.supervisor.processes import Process, is_kernel_thread, process_table
from ebpf_userspace_exporter.supervisor.selection.explain import Explanation, ProgramExplanation, explain
from ebpf_userspace_exporter.supervisor.selection.facts import Facts
from ebpf_userspace_exporter.supervisor.selection.listening import ListeningSockets
from ebpf_userspace_exporter.supervisor.selection.verdict import Outcome, Step
from ebpf_userspace_exporter.supervisor.targets import Slot

_GROUPS = ("any", "not", "ancestor")
_LEADERLESS = "its first thread has exited: a probe would count nothing"
_KERNEL_THREAD = "it is a kernel thread, which executes no file"
_UNREADABLE = "what it executes cannot be told: needs root or CAP_SYS_PTRACE"


def show_matches(path: Path, *, as_json: bool) -> int:
    """Show the targets that there would be now; return the exit code."""
    config = _load(path)
    if config is None:
        return 2
    table = process_table()
    matcher = Matcher(definitions(config.programs), config.exclude, rescan_seconds=0.0)
    look = matcher.look(table, time.monotonic(), os.getpid())
    labels = {slot: target.labels for slot, target in look.targets.items()}
    notes = {**dict.fromkeys(look.leaderless, _LEADERLESS), **dict.fromkeys(look.unreadable, _UNREADABLE)}
    notes |= {slot: _KERNEL_THREAD for slot in look.unreadable if is_kernel_thread(slot.pid)}
    slots = sorted({*labels, *notes}, key=lambda slot: (slot.program, slot.pid))
    commands = {slot: _command(table[slot.pid]) for slot in slots}
    if as_json:
        show_json([_document(slot, commands[slot], labels.get(slot, ()), notes.get(slot)) for slot in slots])
    elif slots:
        _show_targets(
            [
                (slot.program, slot.pid, commands[slot], _written(labels.get(slot, ())), notes.get(slot))
                for slot in slots
            ]
        )
    for program in config.programs:
        if all(slot.program != program.name for slot in slots):
            complain(f"{program.name}: no process matches; to see why not: match {path} --explain PID")
        if number := look.left_out.get(program.name):
            complain(f"{program.name}: {number} more match and are left out: max_targets is {program.max_targets}")
    return 0


def show_explanation(path: Path, pid: int, *, as_json: bool) -> int:
    """Show, key by key, what the config makes of one process; return the exit code."""
    config = _load(path)
    if config is None:
        return 2
    explanation = explain(config.programs, config.exclude, pid, process_table())
    if explanation is None:
        complain(f"process {pid} does not exist, or is gone")
        return 1
    if as_json:
        show_json(_explanation_document(explanation))
        return 0
    kind = ", a kernel thread" if is_kernel_thread(pid) else ""
    show_text(f"process {pid}: {escape(_command(explanation.process))}{kind}")
    for index, exclusion in enumerate(explanation.exclusions):
        show_text(f"\nexclude[{index}]: {exclusion.outcome}")
        _show_steps(exclusion.steps, pid)
    for program in explanation.programs:
        excluded = ", but is excluded" if explanation.is_excluded and program.outcome is Outcome.MATCHES else ""
        labels = f"; labels: {_written(program.labels)}" if program.outcome is Outcome.MATCHES else ""
        show_text(f"\n{program.program}: {program.outcome}{excluded}{labels}")
        _show_steps(program.steps, pid)
        if deciding := _deciding(program, explanation):
            show_text(f"decided by {', '.join(deciding)}")
    return 0


def _deciding(program: ProgramExplanation, explanation: Explanation) -> list[str]:
    """Return the keys that keep the process from being a target; none where nothing does."""
    if program.outcome is Outcome.MATCHES:
        excluding = enumerate(explanation.exclusions)
        return [f"exclude[{index}]" for index, each in excluding if each.outcome is Outcome.MATCHES]
    # The last one of `ancestor` is about all that were tried.
    needed = {step.key: step.outcome for step in program.steps if not _is_within_group(step)}
    return [key for key, outcome in needed.items() if outcome is program.outcome]


def _is_within_group(step: Step) -> bool:
    """Whether the key may fail without the whole failing, so that the row of its group tells."""
    return any(part in _GROUPS and any(map(_is_key, step.path[at + 1 :])) for at, part in enumerate(step.path))


def _is_key(part: str | int) -> bool:
    return isinstance(part, str)


def _show_targets(rows: Sequence[tuple[object, ...]]) -> None:
    columns = ("program", "pid", "command", "labels", "not attached, as")
    has_notes = any(row[-1] for row in rows)
    show_table(columns if has_notes else columns[:-1], rows if has_notes else [row[:-1] for row in rows])


def _load(path: Path) -> Config | None:
    try:
        return load_config(path, trusted=os.geteuid() == 0).config
    except ConfigError as error:
        show_problems(error)
        return None


def show_problems(error: ConfigError) -> None:
    """Write all problems of a config on stderr, a line each."""
    for problem in error.problems:
        complain(str(problem))


def _command(process: Process) -> str:
    cmdline = Facts(process, ListeningSockets()).cmdline
    return cmdline[:200] if isinstance(cmdline, str) and cmdline else f"[{process.comm}]"


def _written(labels: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels)


def _show_steps(steps: Sequence[Step], pid: int) -> None:
    show_table(
        ("key", "expected", "found", "so it"),
        [
            (
                f"{step.key} (process {step.pid})" if step.pid != pid else step.key,
                step.expected,
                step.found,
                step.outcome,
            )
            for step in steps
        ],
    )


def _document(slot: Slot, command: str, labels: Sequence[tuple[str, str]], note: str | None) -> dict[str, object]:
    return {"program": slot.program, "pid": slot.pid, "command": command, "labels": dict(labels), "not_attached": note}


def _explanation_document(explanation: Explanation) -> dict[str, object]:
    return {
        "pid": explanation.process.pid,
        "is_excluded": explanation.is_excluded,
        "exclude": [
            {"outcome": str(each.outcome), "steps": [_step(step) for step in each.steps]}
            for each in explanation.exclusions
        ],
        "programs": [
            {
                "program": each.program,
                "outcome": str(each.outcome),
                "labels": dict(each.labels),
                "steps": [_step(step) for step in each.steps],
            }
            for each in explanation.programs
        ],
    }


def _step(step: Step) -> dict[str, object]:
    return {
        "pid": step.pid,
        "key": step.key,
        "expected": step.expected,
        "found": step.found,
        "outcome": str(step.outcome),
    }
