"""A bounded reader of 64-bit little-endian ELF files that anybody may have written.

Every offset is checked before it is followed and every table has a size limit, so that a hostile file costs an
`ElfError` and neither a traceback nor the memory. (pyelftools makes an object per symbol, seconds for a JVM.)
Formats: elf(5); for the notes of USDT probes, systemtap's wiki page UserSpaceProbeImplementation.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Protocol

ET_EXEC, ET_DYN = 2, 3
DT_NEEDED, DT_RPATH, DT_RUNPATH = 1, 15, 29
_PT_LOAD = 1
_PF_X = 1
_SHT_NOBITS = 8
_STT_OBJECT, _STT_FUNC, _STT_GNU_IFUNC = 1, 2, 10
_STB_LOCAL = 0
_NT_STAPSDT = 3
_VERSYM_HIDDEN = 0x8000

_HEADER = struct.Struct("<16xHH12xQQ6xHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_NOTE = struct.Struct("<III")
_STAPSDT = struct.Struct("<QQQ")
_DYNAMIC = struct.Struct("<QQ")

_MAX_NOTES = 65_536
_MAX_SYMBOLS = 4 << 20
_MAX_NAME_POSITIONS = 4096
_MAX_ADDRESS = (1 << 64) - 1
_ENTRIES_AT_ONCE = 1 << 16
_MAX_DYNAMIC = 4096


class ElfError(Exception):
    """The file is no ELF file that we can read, or lies about itself."""


class AmbiguousSymbolError(ElfError):
    """Several functions have this name."""


class IndirectFunctionError(ElfError):
    """The symbol is an IFUNC: its address is a resolver that runs once, not what is called."""


class Content(Protocol):
    """The bytes of a file: in memory, mapped, or read as they are asked for."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, span: slice, /) -> bytes:
        """Return some of them, fewer where the file ends."""

    def find(self, wanted: bytes, begin: int, end: int, /) -> int:
        """Return where `wanted` is between `begin` and `end`, -1 where it is not."""


@dataclass(frozen=True, slots=True)
class SdtNote:
    """One location of a USDT probe; addresses are virtual, as linked, `semaphore` 0 is none."""

    provider: str
    name: str
    location: int
    semaphore: int
    arguments: str


@dataclass(frozen=True, slots=True)
class _Section:
    name: bytes
    kind: int
    address: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True, slots=True)
class _Segment:
    offset: int
    address: int
    file_bytes: int
    is_executable: bool


@dataclass(frozen=True, slots=True)
class _Symbol:
    address: int
    is_local: bool
    is_indirect: bool
    is_default: bool


class Elf:
    """The parts of an ELF file that probes need; `content` is the whole file and must outlive this."""

    def __init__(self, content: Content) -> None:
        self._content = content
        if content[:4] != b"\x7fELF":
            raise ElfError("not an ELF file")
        if content[4:6] != b"\x02\x01":
            raise ElfError("not a 64-bit little-endian ELF file")
        self.kind, self.machine, segments_at, sections_at, *sizes = self._unpack(_HEADER, 0)
        segment_bytes, segment_count, section_bytes, section_count, names_index = sizes
        if segment_count and segment_bytes != _PROGRAM_HEADER.size:
            raise ElfError(f"program headers of {segment_bytes} bytes, expected {_PROGRAM_HEADER.size}")
        if sections_at and section_count and section_bytes != _SECTION_HEADER.size:
            raise ElfError(f"section headers of {section_bytes} bytes, expected {_SECTION_HEADER.size}")
        self._segments = tuple(self._read_segments(segments_at, segment_count))
        self._sections = tuple(self._read_sections(sections_at, section_count if sections_at else 0, names_index))

    def file_offset(self, address: int) -> int:
        """Return where in the file a virtual address lies."""
        for segment in self._segments:
            if segment.address <= address < segment.address + segment.file_bytes:
                return address - segment.address + segment.offset
        raise ElfError(f"address {address:#x} lies in no segment of the file")

    def code_at(self, address: int, count: int) -> bytes:
        """Return the bytes at a virtual address, fewer where the file ends."""
        offset = self.file_offset(address)
        return self._content[offset : offset + count]

    def address_of(self, offset: int) -> int:
        """Return the virtual address, as linked, of a mapping that begins at this page of the file."""
        page_bytes = mmap.PAGESIZE
        for segment in self._segments:
            if segment.offset // page_bytes * page_bytes <= offset < segment.offset + segment.file_bytes:
                return segment.address - segment.offset + offset
        raise ElfError(f"offset {offset:#x} lies in no segment of the file")

    def code_spans(self) -> Iterator[tuple[int, int, int]]:
        """Yield (file offset, virtual address as linked, bytes) of each part of the file that is executed."""
        for segment in self._segments:
            if segment.is_executable:
                yield segment.offset, segment.address, segment.file_bytes

    def is_go(self) -> bool:
        """Say whether Go's linker made this file."""
        return any(section.name in (b".go.buildinfo", b".note.go.buildid") for section in self._sections)

    def dynamic_strings(self) -> Iterator[tuple[int, str]]:
        """Yield what the dynamic loader is told in words: (DT_NEEDED, "libc.so.6"), (DT_RUNPATH, "$ORIGIN/../lib")."""
        table = self._section(b".dynamic")
        if table is None:
            return
        begin, end = self._names_of(table)
        for tag, value in self._table(_DYNAMIC, table.offset, min(table.size // _DYNAMIC.size, _MAX_DYNAMIC)):
            if tag in (DT_NEEDED, DT_RPATH, DT_RUNPATH) and begin + value < end:
                stop = self._content.find(b"\0", begin + value, end)
                if stop >= 0:
                    yield tag, os.fsdecode(self._content[begin + value : stop])

    def sdt_notes(self) -> Iterator[SdtNote]:
        """Yield the locations of all USDT probes, addresses corrected where the file was moved after linking."""
        base = next((section.address for section in self._sections if section.name == b".stapsdt.base"), None)
        count = 0
        for section in self._sections:
            if section.name != b".note.stapsdt" or section.kind == _SHT_NOBITS:
                continue
            at, end = section.offset, section.offset + section.size
            while at < end:
                count += 1
                if count > _MAX_NOTES:
                    raise ElfError(f"more than {_MAX_NOTES} probe notes")
                owner_bytes, body_bytes, kind = self._unpack(_NOTE, at)
                body = at + _NOTE.size + (owner_bytes + 3) // 4 * 4
                at = body + (body_bytes + 3) // 4 * 4
                if body + body_bytes > end:
                    raise ElfError("a probe note is longer than its section")
                if kind == _NT_STAPSDT and owner_bytes == 8:
                    yield self._sdt_note(body, body_bytes, base)

    def function_address(self, name: str) -> int | None:
        """Return the virtual address of a function, None if there is none of that name.

        Symbol versions are ignored, of several the default one is taken; global functions go before local ones.
        Raises AmbiguousSymbolError and IndirectFunctionError.
        """
        symbols = self._symbols(name, {_STT_FUNC, _STT_GNU_IFUNC})
        for candidates in (
            [symbol for symbol in symbols if symbol.is_default and not symbol.is_local],
            [symbol for symbol in symbols if not symbol.is_local],
            symbols,
        ):
            addresses = sorted({symbol.address for symbol in candidates})
            if len(addresses) > 1:
                places = ", ".join(f"{address:#x}" for address in addresses[:8])
                raise AmbiguousSymbolError(f"{len(addresses)} functions are named {name}, at {places}")
            if candidates and candidates[0].is_indirect:
                raise IndirectFunctionError(f"{name} is an indirect function (IFUNC): its resolver runs once")
            if candidates:
                return addresses[0]
        return None

    def variable_address(self, name: str) -> int | None:
        """Return the virtual address of a variable, None if there is none of that name, or more than one."""
        addresses = {symbol.address for symbol in self._symbols(name, {_STT_OBJECT})}
        return addresses.pop() if len(addresses) == 1 else None

    def function_names(self) -> Iterator[str]:
        """Yield the names, of up to 511 bytes, of the functions that the file defines; some of them twice."""
        yield from self._function_names(lambda kind: kind & 0xF in (_STT_FUNC, _STT_GNU_IFUNC))

    def global_functions(self) -> Iterator[str]:
        """Yield the names, some twice, of the functions that are not static; the indirect ones cannot be probed."""
        yield from self._function_names(lambda kind: kind >> 4 != _STB_LOCAL and kind & 0xF == _STT_FUNC)

    def local_functions(self) -> Iterator[str]:
        """Yield the names of the static functions, once for each function: several may have one name."""
        yield from self._function_names(lambda kind: kind >> 4 == _STB_LOCAL and kind & 0xF == _STT_FUNC)

    def functions(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (address, bytes, end of its section, place of its name in the file) of each function, in no order.

        Local and indirect (IFUNC) ones too: those of .symtab, which has all, else those of .dynsym. Of some written in
        assembly the size is unknown, 0. The name ends with a NUL, `@` and a version may precede that.
        """
        table = self._section(b".symtab") or self._section(b".dynsym")
        if table is None:
            return
        begin, end = self._names_of(table)
        for name_at, kind, _other, section, address, size in self._symbol_entries(table):
            if kind & 0xF not in (_STT_FUNC, _STT_GNU_IFUNC) or not section or not address or begin + name_at >= end:
                continue
            if section < len(self._sections):
                within = self._sections[section]
                yield address, size, min(within.address + within.size, _MAX_ADDRESS), begin + name_at
            else:
                yield address, size, min(address + max(size, 1), _MAX_ADDRESS), begin + name_at

    def has_local_symbols(self) -> bool:
        """Say whether static functions are known by name; a stripped file has the exported ones alone."""
        return self._section(b".symtab") is not None

    def _unpack(self, layout: struct.Struct, at: int) -> tuple[int, ...]:
        if at + layout.size > len(self._content):
            raise ElfError(f"{layout.size} bytes expected at {at:#x}, the file has {len(self._content):#x}")
        return layout.unpack(self._content[at : at + layout.size])

    def _table(self, layout: struct.Struct, at: int, count: int) -> Iterator[tuple[int, ...]]:
        end = at + count * layout.size
        if end > len(self._content):
            raise ElfError(f"a table of {count} entries at {at:#x} ends behind the file")
        return layout.iter_unpack(self._content[at:end])

    def _read_segments(self, at: int, count: int) -> Iterator[_Segment]:
        for kind, flags, offset, address, _physical, file_bytes, _bytes, _align in self._table(
            _PROGRAM_HEADER, at, count
        ):
            if kind == _PT_LOAD and offset + file_bytes <= len(self._content):
                yield _Segment(offset, address, file_bytes, is_executable=bool(flags & _PF_X))

    def _read_sections(self, at: int, count: int, names_index: int) -> Iterator[_Section]:
        headers = list(self._table(_SECTION_HEADER, at, count))
        if not headers:
            return
        if names_index >= len(headers):
            raise ElfError(f"section names in section {names_index}, the file has {len(headers)}")
        names_at, names_bytes = headers[names_index][4:6]
        for name, kind, _flags, address, offset, size, link, _info, _align, _entry_bytes in headers:
            if kind != _SHT_NOBITS and offset + size > len(self._content):
                raise ElfError(f"a section at {offset:#x} ends behind the file")
            begin = names_at + name
            raw = self._content[begin : min(begin + 64, names_at + names_bytes)] if name < names_bytes else b""
            yield _Section(raw.split(b"\0", 1)[0], kind, address, offset, size, link)

    def _section(self, name: bytes) -> _Section | None:
        return next((s for s in self._sections if s.name == name and s.kind != _SHT_NOBITS), None)

    def _sdt_note(self, at: int, size: int, base: int | None) -> SdtNote:
        location, linked_base, semaphore = self._unpack(_STAPSDT, at)
        texts = self._content[at + _STAPSDT.size : at + size].split(b"\0")
        if size <= _STAPSDT.size or len(texts) < 3:
            raise ElfError("a probe note without provider, name and arguments")
        moved = base - linked_base if base is not None and linked_base else 0
        provider, name, arguments = (text.decode(errors="backslashreplace") for text in texts[:3])
        return SdtNote(
            provider=provider,
            name=name,
            location=(location + moved) % (1 << 64),
            semaphore=(semaphore + moved) % (1 << 64) if semaphore else 0,
            arguments=arguments,
        )

    def _symbols(self, name: str, kinds: Set[int]) -> list[_Symbol]:
        wanted = name.encode(errors="replace")
        if not wanted or b"\0" in wanted:
            return []
        found: list[_Symbol] = []
        for table_name in (b".symtab", b".dynsym"):
            table = self._section(table_name)
            if table is None:
                continue
            positions = self._name_positions(table, wanted)
            if not positions:
                continue
            hidden = self._hidden_versions() if table_name == b".dynsym" else frozenset()
            entries = self._symbol_entries(table)
            for index, (name_at, kind, _other, section, address, _size) in enumerate(entries):
                if name_at in positions and kind & 0xF in kinds and section and address:
                    found.append(
                        _Symbol(
                            address=address,
                            is_local=kind >> 4 == _STB_LOCAL,
                            is_indirect=kind & 0xF == _STT_GNU_IFUNC,
                            is_default=positions[name_at] and index not in hidden,
                        )
                    )
        return found

    def _function_names(self, wanted: Callable[[int], bool]) -> Iterator[str]:
        for table_name in (b".symtab", b".dynsym"):
            table = self._section(table_name)
            if table is None:
                continue
            begin, end = self._names_of(table)
            for name_at, kind, _other, section, address, _size in self._symbol_entries(table):
                if wanted(kind) and section and address:
                    at = begin + name_at
                    stop = self._content.find(b"\0", at, min(at + 512, end))
                    if stop > at:
                        yield self._content[at:stop].partition(b"@")[0].decode(errors="replace")

    def _symbol_entries(self, table: _Section) -> Iterator[tuple[int, ...]]:
        if table.size > _MAX_SYMBOLS * _SYMBOL.size:
            raise ElfError(f"more than {_MAX_SYMBOLS} symbols")
        count = table.size // _SYMBOL.size
        for start in range(0, count, _ENTRIES_AT_ONCE):
            yield from self._table(_SYMBOL, table.offset + start * _SYMBOL.size, min(_ENTRIES_AT_ONCE, count - start))

    def _names_of(self, table: _Section) -> tuple[int, int]:
        """Return where the symbols' names begin and end."""
        strings = self._sections[table.link] if table.link < len(self._sections) else None
        if strings is None or strings.kind == _SHT_NOBITS:
            raise ElfError("a symbol table without names")
        return strings.offset, strings.offset + strings.size

    def _name_positions(self, table: _Section, wanted: bytes) -> dict[int, bool]:
        """Return where in the table's strings the name is, with False for a version that is not the default.

        Any place that ends like the name will do: linkers let one name be the tail of another.
        """
        begin, end = self._names_of(table)
        positions: dict[int, bool] = {}
        for ending in (wanted + b"\0", wanted + b"@"):
            at = self._content.find(ending, begin, end)
            while at >= 0:
                old_version = ending[-1:] == b"@" and self._content[at + len(ending) : at + len(ending) + 1] != b"@"
                positions[at - begin] = not old_version
                if len(positions) > _MAX_NAME_POSITIONS:
                    raise ElfError(f"a name occurs more than {_MAX_NAME_POSITIONS} times")
                at = self._content.find(ending, at + 1, end)
        return positions

    def _hidden_versions(self) -> frozenset[int]:
        """Return the indexes of the dynamic symbols that are there for old binaries only."""
        versions = self._section(b".gnu.version")
        if versions is None or versions.size > _MAX_SYMBOLS * 2:
            return frozenset()
        entries = self._table(struct.Struct("<H"), versions.offset, versions.size // 2)
        return frozenset(index for index, (version,) in enumerate(entries) if version & _VERSYM_HIDDEN)
