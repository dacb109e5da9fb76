"""Where a program's probes lie: for each one the file, the places in it, and the semaphore."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.build.similar_names import similar_functions
from ebpf_userspace_exporter.worker.build.target_elves import OpenedElf, TargetElves, base_name
from ebpf_userspace_exporter.worker.elf import AmbiguousSymbolError, ElfError, SdtNote
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

# Of this nop kernel 6.18 makes a call at its first hit (arch/x86/kernel/uprobes.c). A call writes below the stack
# pointer, where a function that calls no other keeps variables: not yet where it begins, but at a USDT probe. libbpf's
# usdt.h has a nop of one byte in front, and that is where its probes are.
_CALLED_NOP = bytes.fromhex("0f1f440000")


@dataclass(frozen=True, slots=True)
class Place:
    """One file offset that a function is attached to; `ref_ctr_offset` is its semaphore's, 0 for none."""

    function: str
    file: OpenedElf
    offset: int
    ref_ctr_offset: int
    is_return: bool


@dataclass(frozen=True, slots=True)
class UsdtProbe:
    """A USDT probe that was found in exactly one file, with all its locations."""

    function: str
    file: OpenedElf
    notes: tuple[SdtNote, ...]

    def places(self) -> Iterator[Place]:
        """Yield every location once: a duplicate offset in one link would count double."""
        semaphores: dict[int, int] = {}
        for note in self.notes:
            try:
                semaphore = self.file.elf.file_offset(note.semaphore) if note.semaphore else 0
                semaphores.setdefault(self.file.elf.file_offset(note.location), semaphore)
            except ElfError as error:
                raise AttachError(
                    Reason.PROBE_NOT_FOUND, f"{note.provider}:{note.name} in {self.file}: {error}"
                ) from error
        for offset, semaphore in semaphores.items():
            yield Place(self.function, self.file, offset, semaphore, is_return=False)


def find_usdt_probes(program: Program, elves: TargetElves) -> list[UsdtProbe]:
    """Return the program's USDT probes; AttachError PROBE_NOT_FOUND, PROBE_AMBIGUOUS, RED_ZONE.

    The executable and all mapped libraries are searched: a probe that two of them have is nobody's guess.
    """
    if not program.usdt:
        return []
    notes: dict[tuple[str, str], dict[OpenedElf, list[SdtNote]]] = {}
    unread: list[str] = []
    for file in elves.everything():
        if isinstance(file, str):
            unread.append(file)
            continue
        try:
            for note in file.elf.sdt_notes():
                notes.setdefault((note.provider, note.name), {}).setdefault(file, []).append(note)
        except ElfError as error:
            unread.append(f"{file}: {error}")
    return [_usdt_probe(probe, function, notes, unread) for probe, function in program.usdt.items()]


def find_uprobes(program: Program, elves: TargetElves) -> Iterator[Place]:
    """Yield the places of the program's uprobes and uretprobes.

    AttachError FILE_NOT_FOUND, SYMBOL_NOT_FOUND, PROBE_AMBIGUOUS, GO_URETPROBE.
    """
    for probe, function in program.uprobes.items():
        yield _uprobe(probe, function, elves, is_return=False)
    for probe, function in program.uretprobes.items():
        yield _uprobe(probe, function, elves, is_return=True, allow_go=program.allow_go_uretprobes)


def _usdt_probe(
    probe: str, function: str, notes: dict[tuple[str, str], dict[OpenedElf, list[SdtNote]]], unread: list[str]
) -> UsdtProbe:
    provider, _, name = probe.rpartition(":")
    found = [
        (key, file, tuple(locations))
        for key, files in notes.items()
        if key[1] == name and provider in ("", key[0])
        for file, locations in files.items()
    ]
    if not found:
        known = sorted({f"{provider}:{name}" for provider, name in notes})
        raise AttachError(Reason.PROBE_NOT_FOUND, _not_found(probe, known, unread))
    if len(found) > 1:
        listed = "; ".join(f"{key[0]}:{key[1]} in {file}" for key, file, _ in found)
        raise AttachError(Reason.PROBE_AMBIGUOUS, f"USDT probe {probe}: found more than once: {listed}")
    [(_, file, locations)] = found
    _refuse_called_nops(probe, file, locations)
    return UsdtProbe(function, file, locations)


def _refuse_called_nops(probe: str, file: OpenedElf, notes: Sequence[SdtNote]) -> None:
    with suppress(ElfError):  # an address that the file has not is told of when it is needed
        if any(file.elf.code_at(note.location, len(_CALLED_NOP)) == _CALLED_NOP for note in notes):
            message = "it is a nop of five bytes, where the kernel overwrites the program's variables; let it be of one"
            raise AttachError(Reason.RED_ZONE, f"USDT probe {probe}: {file}: {message}")


def _not_found(probe: str, known: list[str], unread: list[str]) -> str:
    name = probe.rpartition(":")[2]
    near = difflib.get_close_matches(probe, known, n=3) or [
        full for full in known if full.rpartition(":")[2] in difflib.get_close_matches(name, [full.rpartition(":")[2]])
    ]
    message = f"USDT probe {probe}: in none of the target's files"
    if near:
        message += f"; did you mean {' or '.join(near[:3])}?"
    elif known:
        message += f"; they have {', '.join(known[:20])}{', …' if len(known) > 20 else ''}"
    else:
        message += ", which have no USDT probes at all"
    if unread:
        message += f" (not looked into: {'; '.join(unread[:5])})"
    return message


def _uprobe(probe: str, function: str, elves: TargetElves, *, is_return: bool, allow_go: bool = False) -> Place:
    path, _, symbol = probe.rpartition(":")
    file = elves.named(path) if path else elves.executable()
    if is_return and not allow_go and file.elf.is_go():
        message = "is a Go binary, which crashes when its stack grows; allow_go_uretprobes: true takes the risk"
        raise AttachError(Reason.GO_URETPROBE, f"uretprobe {probe}: {file} {message}")
    try:
        address = file.elf.function_address(symbol)
        if address is not None:
            return Place(function, file, file.elf.file_offset(address), 0, is_return)
    except AmbiguousSymbolError as error:
        raise AttachError(Reason.PROBE_AMBIGUOUS, f"{probe}: {file}: {error}") from error
    except ElfError as error:
        raise AttachError(Reason.SYMBOL_NOT_FOUND, f"{probe}: {file}: {error}") from error
    elsewhere = [] if path else [base_name(str(other)) for other in _having(symbol, elves)]
    raise AttachError(Reason.SYMBOL_NOT_FOUND, f"{probe}: {_no_function(symbol, file, elsewhere)}")


def _having(symbol: str, elves: TargetElves) -> Iterator[OpenedElf]:
    """Yield the libraries that the executable may have the function from."""
    for other in elves.everything():
        if isinstance(other, str) or other.path is None:
            continue
        with suppress(ElfError):
            if other.elf.function_address(symbol) is not None:
                yield other


def _no_function(symbol: str, file: OpenedElf, elsewhere: Sequence[str]) -> str:
    message = f"{file} has no function {symbol}"
    if elsewhere:
        return f"{message}; did you mean {' or '.join(f'{name}:{symbol}' for name in elsewhere[:3])}?"
    if file.elf.has_local_symbols():
        message += ": it may be inlined"
    else:
        message += ": the file is stripped of all but exported functions, it may be static or inlined"
    similar: list[str] = []
    with suppress(ElfError):  # what the file says of other functions than this one
        similar = similar_functions(symbol, file.elf.function_names())
    return f"{message}; did you mean {' or '.join(similar)}?" if similar else message
