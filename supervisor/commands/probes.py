"""`probes`: what a process, or a file, has to be probed, in the words of a config."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from ebpf_userspace_exporter.supervisor.commands.tables import complain, show_json, show_table, show_text
from ebpf_userspace_exporter.worker.build.address_spaces import BinarySpace, ProcessSpace
from ebpf_userspace_exporter.worker.build.argument_types import argument_types, is_readable
from ebpf_userspace_exporter.worker.build.target_elves import OpenedElf, TargetElves, base_name
from ebpf_userspace_exporter.worker.elf import ElfError, SdtNote
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import TargetGone


@dataclass(frozen=True, slots=True)
class Probe:
    """A USDT probe in one file: `notes` are its locations, `types` those of its arguments."""

    key: str
    types: tuple[str, ...]
    file: str
    notes: tuple[SdtNote, ...]


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function of one file that a uprobe can be attached to."""

    key: str
    file: str


def show_probes(target: str, glob: str, *, symbols: bool, as_json: bool, as_yaml: bool) -> int:
    """List the USDT probes, or the functions, of a process or a file; return the exit code."""
    try:
        space = ProcessSpace(int(target)) if _is_pid(target) else BinarySpace(Path(target))
        with TargetElves(space) as elves:
            files = list(elves.everything()) if _is_pid(target) else [elves.executable()]
            opened = [file for file in files if isinstance(file, OpenedElf)]
            unread = [file for file in files if isinstance(file, str)]
            if symbols:
                _show_symbols(
                    sorted(_symbols(opened, glob, unread), key=lambda symbol: symbol.key),
                    as_json=as_json,
                    as_yaml=as_yaml,
                )
            else:
                _show_probes(list(_probes(opened, glob, unread)), as_json=as_json, as_yaml=as_yaml)
    except TargetGone as error:
        complain(f"process {error.pid} does not exist, or is gone")
        return 1
    except AttachError as error:
        complain(f"{error}; needs root, or CAP_SYS_PTRACE" if error.reason is Reason.PERMISSION else str(error))
        return 1
    except (ElfError, OSError) as error:
        complain(f"{target}: {error}")
        return 1
    for problem in unread:
        complain(f"not looked into: {problem}")
    return 0


def _is_pid(target: str) -> bool:
    """Whether a process is meant; a file whose name is a number is written ./NUMBER."""
    return target.isascii() and target.isdigit() and len(target) < 10


def _path(file: OpenedElf) -> str:
    return file.mapped.path if file.mapped else str(file)


def _probes(files: Sequence[OpenedElf], glob: str, unread: list[str]) -> Iterator[Probe]:
    for file in files:
        notes: dict[str, list[SdtNote]] = {}
        try:
            for note in file.elf.sdt_notes():
                notes.setdefault(f"{note.provider}:{note.name}", []).append(note)
        except ElfError as error:
            unread.append(f"{file}: {error}")
        for key, locations in sorted(notes.items()):
            if fnmatchcase(key, glob) or fnmatchcase(locations[0].name, glob):
                yield Probe(key, argument_types(locations), _path(file), tuple(locations))


def _symbols(files: Sequence[OpenedElf], glob: str, unread: list[str]) -> Iterator[Symbol]:
    bases = [base_name(_path(file)) for file in files]
    for file, base in zip(files, bases, strict=True):
        library = _path(file) if bases.count(base) > 1 else base
        is_library = file.path is not None or ".so" in base
        try:
            names = set(file.elf.global_functions())
        except ElfError as error:
            unread.append(f"{file}: {error}")
            continue
        for name in names:
            key = f"{library}:{name}" if is_library else name
            if fnmatchcase(name, glob) or fnmatchcase(key, glob):
                yield Symbol(key, _path(file))


def _show_probes(probes: Sequence[Probe], *, as_json: bool, as_yaml: bool) -> None:
    if as_json:
        show_json([_document(probe) for probe in probes])
    elif as_yaml:
        _show_yaml(probes)
    else:
        show_table(
            ("usdt", "arguments", "places", "file"),
            [(probe.key, ", ".join(probe.types), len(probe.notes), probe.file) for probe in probes],
        )


def _show_symbols(symbols: Sequence[Symbol], *, as_json: bool, as_yaml: bool) -> None:
    if as_json:
        show_json([{"uprobe": symbol.key, "file": symbol.file} for symbol in symbols])
    elif as_yaml:
        functions = _functions([symbol.key for symbol in symbols])
        show_text("uprobes:" if symbols else "uprobes: {}")
        for symbol in symbols:
            show_text(_line(symbol.key, functions[symbol.key], ""), indent=2)
        show_text("code: |" if symbols else "code: ''")
        for name in functions.values():
            show_text(_stub(name, ()), indent=2)
    else:
        show_table(("uprobe", "file"), [(symbol.key, symbol.file) for symbol in symbols])


def _document(probe: Probe) -> dict[str, object]:
    locations = [
        {"address": note.location, "semaphore": note.semaphore, "arguments": note.arguments} for note in probe.notes
    ]
    return {"usdt": probe.key, "arguments": probe.types, "file": probe.file, "locations": locations}


def _show_yaml(probes: Sequence[Probe]) -> None:
    """Write a piece of a program: the probes, and code that reads their arguments into variables that fit."""
    by_key: dict[str, list[Probe]] = {}
    for probe in probes:
        by_key.setdefault(probe.key, []).append(probe)
    functions = _functions(list(by_key))
    show_text("usdt:" if by_key else "usdt: {}")
    for key, same in by_key.items():
        comment = ", ".join(same[0].types) if len(same) == 1 else f"in {len(same)} files: attached to none of them"
        show_text(_line(key, functions[key], comment), indent=2)
    show_text("code: |" if by_key else "code: ''")
    for key, same in by_key.items():
        show_text(_stub(functions[key], same[0].types), indent=2)


def _line(key: str, function: str, comment: str) -> str:
    line = yaml.safe_dump({key: function}, width=1 << 20).rstrip("\n")
    return f"{line}  # {comment}" if comment else line


def _functions(keys: Sequence[str]) -> dict[str, str]:
    """Return a name of a C function for each key, all different."""
    names: dict[str, str] = {}
    for key in keys:
        short = "on_" + re.sub(r"\W", "_", key.rpartition(":")[2], flags=re.ASCII)
        name = short if short not in names.values() else "on_" + re.sub(r"\W", "_", key, flags=re.ASCII)
        number = 2
        while name in names.values():
            name, number = f"{short}_{number}", number + 1
        names[key] = name
    return names


def _stub(function: str, types: Sequence[str]) -> str:
    lines = [f"int {function}(struct pt_regs *ctx) {{"]
    for number, c_type in enumerate(types, start=1):
        if is_readable(c_type):
            lines += [f"    {c_type} arg{number} = 0;", f"    bpf_usdt_readarg({number}, ctx, &arg{number});"]
    return "\n".join([*lines, "    return 0;", "}"])
