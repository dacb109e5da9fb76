"""`probes`: what a process, or a file, has to be probed, in the words of a config."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from ebpf_userspace_exporter.config.errors import quote
from ebpf_userspace_exporter.supervisor.commands.tables import complain, show_json, show_table, show_text
from ebpf_userspace_exporter.worker.build.address_spaces import BinarySpace, ProcessSpace
from ebpf_userspace_exporter.worker.build.argument_types import argument_types, is_readable
from ebpf_userspace_exporter.worker.build.similar_names import similar_functions
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

    @property
    def name(self) -> str:
        """Its name without its provider's."""
        return self.notes[0].name


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function of one file that a uprobe can be attached to, unless other static ones have the same name."""

    key: str
    name: str
    file: str
    is_local: bool = False
    is_ambiguous: bool = False


def show_probes(target: str, glob: str, *, symbols: bool, as_json: bool, as_yaml: bool) -> int:
    """List the USDT probes, or the functions, of a process or a file; return the exit code, 1 where there are none."""
    try:
        space = ProcessSpace(int(target)) if _is_pid(target) else BinarySpace(Path(target))
        with TargetElves(space) as elves:
            files = list(elves.everything()) if _is_pid(target) else [elves.executable()]
            opened = [file for file in files if isinstance(file, OpenedElf)]
            unread = [file for file in files if isinstance(file, str)]
            if symbols:
                functions = sorted(_symbols(opened, unread), key=lambda symbol: symbol.key)
                found = [each for each in functions if _fits(each, glob)]
                _show_symbols(found, as_json=as_json, as_yaml=as_yaml)
                missing = "" if found else _none("function", glob, functions)
            else:
                probes = list(_probes(opened, unread))
                shown = [each for each in probes if _fits(each, glob)]
                _show_probes(shown, as_json=as_json, as_yaml=as_yaml)
                missing = "" if shown else _none("USDT probe", glob, probes)
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
    if missing:
        complain(f"{target}: {missing}")
    return int(bool(missing))


def _is_pid(target: str) -> bool:
    """Whether a process is meant; a file whose name is a number is written ./NUMBER."""
    return target.isascii() and target.isdigit() and len(target) < 10


def _path(file: OpenedElf) -> str:
    return file.mapped.path if file.mapped else str(file)


def _fits(each: Probe | Symbol, glob: str) -> bool:
    return fnmatchcase(each.key, glob) or fnmatchcase(each.name, glob)


def _none(kind: str, glob: str, known: Sequence[Probe | Symbol]) -> str:
    """Return that nothing fits, and what may have been meant."""
    if not known:
        return f"has no {kind}s"
    keys = {each.name: each.key for each in known}
    word = re.sub(r"[*?\[\]]", "", glob.rpartition(":")[2])
    near = [keys[name] for name in similar_functions(word, keys, limit=3)] if word else []
    return f"no {kind} fits {quote(glob)}" + (f"; did you mean {' or '.join(near)}?" if near else "")


def _probes(files: Sequence[OpenedElf], unread: list[str]) -> Iterator[Probe]:
    for file in files:
        notes: dict[str, list[SdtNote]] = {}
        try:
            for note in file.elf.sdt_notes():
                notes.setdefault(f"{note.provider}:{note.name}", []).append(note)
        except ElfError as error:
            unread.append(f"{file}: {error}")
        for key, locations in sorted(notes.items()):
            yield Probe(key, argument_types(locations), _path(file), tuple(locations))


def _symbols(files: Sequence[OpenedElf], unread: list[str]) -> Iterator[Symbol]:
    bases = [base_name(_path(file)) for file in files]
    for file, base in zip(files, bases, strict=True):
        library = _path(file) if bases.count(base) > 1 else base
        prefix = f"{library}:" if file.path is not None or ".so" in base else ""
        try:
            names, local_names = set(file.elf.global_functions()), Counter(file.elf.local_functions())
        except ElfError as error:
            unread.append(f"{file}: {error}")
            continue
        for name in names:
            yield Symbol(prefix + name, name, _path(file))
        for name in local_names.keys() - names:
            yield Symbol(prefix + name, name, _path(file), is_local=True, is_ambiguous=local_names[name] > 1)


def _show_probes(probes: Sequence[Probe], *, as_json: bool, as_yaml: bool) -> None:
    if as_json:
        show_json([_document(probe) for probe in probes])
    elif as_yaml:
        _show_yaml(probes)
    elif probes:
        show_table(
            ("usdt", "arguments", "places", "file"),
            [(probe.key, ", ".join(probe.types), len(probe.notes), probe.file) for probe in probes],
        )


def _show_symbols(symbols: Sequence[Symbol], *, as_json: bool, as_yaml: bool) -> None:
    if as_json:
        show_json([_symbol_document(symbol) for symbol in symbols])
    elif as_yaml:
        functions = _functions([symbol.key for symbol in symbols if not symbol.is_ambiguous])
        show_text("uprobes:" if functions else "uprobes: {}")
        for key, function in functions.items():
            show_text(_line(key, function, ""), indent=2)
        show_text("code: |" if functions else "code: ''")
        for function in functions.values():
            show_text(_stub(function, ()), indent=2)
    elif symbols:
        rows = [(symbol.key, symbol.file, _scope(symbol)) for symbol in symbols]
        columns = ("uprobe", "file", "scope")
        has_scopes = any(scope for *_, scope in rows)
        show_table(columns if has_scopes else columns[:-1], rows if has_scopes else [row[:-1] for row in rows])


def _scope(symbol: Symbol) -> str:
    if symbol.is_ambiguous:
        return "local, as others of that name: cannot be told apart"
    return "local" if symbol.is_local else ""


def _symbol_document(symbol: Symbol) -> dict[str, object]:
    scope = {"is_local": symbol.is_local, "is_ambiguous": symbol.is_ambiguous}
    return {"uprobe": symbol.key, "file": symbol.file, **scope}


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
