"""A probe config is read, checked and returned whole, or refused with everything that is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ebpf_userspace_exporter.config.checks import check
from ebpf_userspace_exporter.config.code_places import CodePlace, code_place
from ebpf_userspace_exporter.config.errors import ConfigError, KeyPath, Problem
from ebpf_userspace_exporter.config.files import read_text
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.model import Config
from ebpf_userspace_exporter.config.nodes import Document, Value, parse
from ebpf_userspace_exporter.config.schema import read_config

# What ebpf_exporter's configs may have beside the probes that are ours.
KERNEL_PROBES = ("kprobes", "kretprobes", "tracepoints", "raw_tracepoints", "perf_events")
PLURAL = "attachments"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config without a problem; the warnings are lines for the log, each with its place in the file.

    `code_places` has, by the program's name, where in the file its code is, if it is there line by line.
    """

    config: Config
    warnings: tuple[str, ...]
    code_places: Mapping[str, CodePlace] = field(default_factory=dict, compare=False)


def load_config(path: Path, *, trusted: bool) -> Loaded:
    """Return the config at `path`; ConfigError with all its problems otherwise.

    With `trusted`, which is for whoever loads its code into a kernel, nobody but root and the user who called sudo may
    be able to change it.
    """
    text = read_text(path, trusted=trusted)
    document = parse(str(path), text)
    if document.value is None:
        raise ConfigError([*document.problems, document.problem((), 'is empty; expected "programs:" and a list')])
    if not isinstance(document.value, dict):
        got = "a list" if isinstance(document.value, list) else "text"
        raise ConfigError([*document.problems, document.problem((), f'expected a mapping with "programs:", got {got}')])
    loaded = _check(document, document.value)
    return replace(loaded, code_places=_code_places(loaded.config, document, text.split("\n")))


def _code_places(config: Config, document: Document, lines: list[str]) -> dict[str, CodePlace]:
    places = {
        program.name: code_place(program.code, lines, document.line_of(("programs", index, "code")))
        for index, program in enumerate(config.programs)
    }
    return {name: place for name, place in places.items() if place is not None}


def _check(document: Document, value: dict[str, Value]) -> Loaded:
    ours, ignored, problems = _set_aside(value)
    draft = read_config(ours)
    findings = Findings(draft.broken)
    if draft.config is not None:
        check(draft.config, findings)
    located = [*problems, *draft.problems, *findings.problems]
    if draft.config is None or located or document.problems:
        here = (document.problem(_as_written(path, value), message) for path, message in located)
        raise ConfigError([*document.problems, *here])
    warnings = [document.problem(_as_written(path, value), message) for path, message in findings.warnings]
    if ignored:
        kinds = ", ".join(sorted({str(path[-1]) for path in ignored}, key=KERNEL_PROBES.index))
        warnings.append(document.problem(ignored[0], f"{kinds} ignored: only probes in userspace are attached"))
    return Loaded(draft.config, tuple(str(warning) for warning in sorted(warnings, key=_line)))


def _set_aside(value: dict[str, Value]) -> tuple[dict[str, Value], list[KeyPath], list[tuple[KeyPath, str]]]:
    """Return the document as the models have it, the paths of kernel probes, and what is wrong with the spelling."""
    programs = value.get("programs")
    if not isinstance(programs, list):
        return value, [], []
    ours: list[Value] = []
    ignored: list[KeyPath] = []
    problems: list[tuple[KeyPath, str]] = []
    for index, program in enumerate(programs):
        if not isinstance(program, dict):
            ours.append(program)
            continue
        ignored += [("programs", index, key) for key in program if key in KERNEL_PROBES]
        if "attachment" in program and PLURAL in program:
            message = 'the same as "attachment", which is there too; expected one of them'
            problems.append((("programs", index, PLURAL), message))
        ours.append(_respelled(program))
    return {**value, "programs": ours}, ignored, problems


def _respelled(program: Mapping[str, Value]) -> Value:
    kept = {key: item for key, item in program.items() if key not in KERNEL_PROBES and key != PLURAL}
    if PLURAL in program:
        kept.setdefault("attachment", program[PLURAL])
    return kept


def _as_written(path: KeyPath, value: Value) -> KeyPath:
    """Return the path as the file has it: `attachments`, and no index where a single value stands for a list of one."""
    written: list[str | int] = []
    for part in path:
        if isinstance(value, str | dict) and isinstance(part, int):
            continue
        key = _spelling(value) if part == "attachment" and len(written) == 2 else part
        written.append(key)
        value = _below(value, key)
    return tuple(written)


def _spelling(program: Value) -> str:
    is_plural = isinstance(program, dict) and PLURAL in program and "attachment" not in program
    return PLURAL if is_plural else "attachment"


def _below(value: Value, part: str | int) -> Value:
    match value, part:
        case dict(), str():
            return value.get(part)
        case list(), int() if part < len(value):
            return value[part]
        case _:
            return None


def _line(problem: Problem) -> int:
    return problem.line or 0
