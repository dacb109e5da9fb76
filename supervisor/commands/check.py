"""`check`: whether configs would work, as far as that can be told without attaching anything."""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from ebpf_userspace_exporter.config.code_places import CodePlace
from ebpf_userspace_exporter.config.errors import ConfigError
from ebpf_userspace_exporter.config.load import Loaded, load_config
from ebpf_userspace_exporter.config.model import Config, Program
from ebpf_userspace_exporter.supervisor.commands.code_words import in_file
from ebpf_userspace_exporter.supervisor.commands.executables import executables
from ebpf_userspace_exporter.supervisor.commands.match import show_problems
from ebpf_userspace_exporter.supervisor.commands.tables import complain, show_json, show_table, show_text
from ebpf_userspace_exporter.supervisor.commands.trial import build, verify
from ebpf_userspace_exporter.supervisor.commands.unread_maps import unread_maps
from ebpf_userspace_exporter.supervisor.matching import Matcher, definitions
from ebpf_userspace_exporter.supervisor.processes import process_table, read_process
from ebpf_userspace_exporter.worker.build.address_spaces import BinarySpace
from ebpf_userspace_exporter.worker.build.headers import Headers, HeadersError, find_headers
from ebpf_userspace_exporter.worker.build.process import BuildRequest
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import TargetGone

MAX_EXECUTABLES = 8  # of one program: each takes a second or two
_TOO_MANY = f"more than {MAX_EXECUTABLES} executables match; say --pid PID or --binary FILE"
_NO_TARGET = "no target: no process matches; say --pid PID or --binary FILE"


class Result(StrEnum):
    """How far a program came."""

    GOOD = "good"
    NOT_COMPILED = "not compiled"
    NOT_VERIFIED = "not verified"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Against:
    """What programs are built for; with neither, for each executable among the processes that match."""

    pid: int | None = None
    binary: Path | None = None
    name: str = ""  # what else it is called

    def __str__(self) -> str:
        return self.name or (str(self.binary) if self.binary is not None else f"process {self.pid}")


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of one program for one executable.

    `why` says what kept it from the next step, `diagnostics` are a tool's words.
    """

    config: str
    program: str
    result: Result
    against: str = ""
    why: str = ""
    warnings: tuple[str, ...] = ()
    diagnostics: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """A config that cannot be used."""

    config: str
    problems: tuple[str, ...]


def check_configs(
    paths: Sequence[Path], against: Against, kernel_headers: Path | None, *, strict: bool, as_json: bool
) -> int:
    """Check every config; return 0 if all is good, 1 if a program fails, 2 if a config or what was asked for is wrong.

    With `strict`, 1 also for a warning, and for a program that was not compiled or not verified.
    """
    if problem := _problem(against):
        complain(problem)
        return 2
    checked: list[Checked] = []
    broken: list[Broken] = []
    config_warnings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="exporter-check-") as scratch:
        checker = _Checker(against, kernel_headers, Path(scratch))
        for path in paths:
            try:
                loaded = load_config(path, trusted=os.geteuid() == 0)
            except ConfigError as error:
                show_problems(error)
                broken.append(Broken(str(path), tuple(map(str, error.problems))))
                continue
            config_warnings += loaded.warnings
            checked += checker.check(str(path), loaded)
    if as_json:
        documents = {"programs": [*map(asdict, checked)], "broken": [*map(asdict, broken)]}
        show_json({"warnings": config_warnings, **documents})
    else:
        _show(checked, config_warnings)
    if broken:
        return 2
    is_doubtful = bool(config_warnings) or any(each.warnings or each.result is not Result.GOOD for each in checked)
    has_failed = any(each.result is Result.FAILED for each in checked)
    return int(has_failed or (strict and is_doubtful))


def _problem(against: Against) -> str:
    """Return what is wrong with what was asked for."""
    if against.pid is not None and read_process(against.pid) is None:
        return f"--pid: process {against.pid} does not exist"
    if against.binary is not None:
        try:
            BinarySpace(against.binary)
        except AttachError as error:
            return f"--binary: {error}"
    return ""


class _Checker:
    """Takes programs as far as they come."""

    def __init__(self, against: Against, kernel_headers: Path | None, scratch: Path) -> None:
        self._against = against
        self._option = kernel_headers
        self._scratch = scratch

    def check(self, path: str, loaded: Loaded) -> Iterator[Checked]:
        """Yield what becomes of each program, for each executable that it is built for."""
        for checked in self._check_all(path, loaded.config):
            place = loaded.code_places.get(checked.program)
            code = next(each.code for each in loaded.config.programs if each.name == checked.program)
            yield checked if place is None else _with_places(checked, code, place)

    def _check_all(self, path: str, config: Config) -> Iterator[Checked]:
        if self._against != Against():
            for program in config.programs:
                yield self._check(path, program, self._against)
            return
        matcher = Matcher(definitions(config.programs), config.exclude, rescan_seconds=0.0)
        targets = matcher.look(process_table(), time.monotonic(), os.getpid()).targets.values()
        for program in config.programs:
            found = executables(target for target in targets if target.slot.program == program.name)
            for executable in found[:MAX_EXECUTABLES]:
                yield self._check(path, program, Against(executable.pids[0], name=str(executable)))
            if (left_out := len(found) - MAX_EXECUTABLES) > 0:
                yield Checked(path, program.name, Result.NOT_COMPILED, f"{left_out} more", _TOO_MANY)
            if not found:
                yield Checked(path, program.name, Result.NOT_COMPILED, why=_NO_TARGET)

    @cached_property
    def _headers(self) -> Headers | AttachError:
        try:
            return find_headers(self._option, self._scratch)
        except HeadersError as error:
            return AttachError(Reason.HEADERS, str(error))

    def _check(self, path: str, program: Program, against: Against) -> Checked:
        try:
            if isinstance(self._headers, AttachError):
                raise self._headers
            request = BuildRequest(program, against.pid or 0, self._headers.path, self._scratch, against.binary)
            built = build(request)
        except TargetGone as error:
            return Checked(path, program.name, Result.NOT_COMPILED, str(against), str(error))
        except AttachError as error:
            return _stopped(path, program, against, error)
        warnings = (*built.warnings, *unread_maps(program, (shape.name for shape in built.image.maps)))
        try:
            verify(built.image)
        except AttachError as error:
            return _stopped(path, program, against, error, warnings)
        return Checked(path, program.name, Result.GOOD, str(against), warnings=warnings)


def _with_places(checked: Checked, code: str, place: CodePlace) -> Checked:
    """Return it with the file's lines in place of the code's."""
    warnings = tuple(in_file(warning, code, checked.config, place) for warning in checked.warnings)
    return replace(checked, warnings=warnings, diagnostics=in_file(checked.diagnostics, code, checked.config, place))


def _stopped(
    path: str, program: Program, against: Against, error: AttachError, warnings: tuple[str, ...] = ()
) -> Checked:
    if error.reason is Reason.PERMISSION:
        why = f"needs root: {error.message}"
        return Checked(path, program.name, Result.NOT_VERIFIED, str(against), why, warnings)
    why = error.message
    if against.binary is not None and error.reason in (Reason.PROBE_NOT_FOUND, Reason.FILE_NOT_FOUND):
        why += " (what it opens while it runs is not known of a binary: check against --pid)"
    return Checked(path, program.name, Result.FAILED, str(against), why, warnings, error.diagnostics)


def _show(checked: Sequence[Checked], config_warnings: Sequence[str]) -> None:
    if checked:
        show_table(
            ("config", "program", "is", "for"),
            [(each.config, each.program, each.result, each.against) for each in checked],
        )
    for warning in config_warnings:
        show_text(f"warning: {warning}")
    for same in _told_alike(checked):
        each = same[0]
        place = f"{each.config}: program {each.program}"
        if any(other not in same and _subject(other) == _subject(each) for other in checked):
            place += f", for {', '.join(other.against for other in same)}"
        if each.why:
            show_text(f"{place}: {each.result}: {each.why}")
        show_text(each.diagnostics, indent=4)
        for warning in each.warnings:
            show_text(f"{place}: {warning}")


def _told_alike(checked: Sequence[Checked]) -> Iterable[Sequence[Checked]]:
    """Return groups of which the same is to be told, of one program each."""
    groups: dict[Checked, list[Checked]] = {}
    for each in checked:
        groups.setdefault(replace(each, against=""), []).append(each)
    return groups.values()


def _subject(checked: Checked) -> tuple[str, str]:
    return checked.config, checked.program
