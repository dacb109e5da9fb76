"""Names of the functions that addresses in a live process are in."""

import functools
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from ebpf_userspace_exporter.worker.elf import ElfError
from ebpf_userspace_exporter.worker.symbols.address_space import AddressSpace, CodeRange
from ebpf_userspace_exporter.worker.symbols.demangle import Demangler
from ebpf_userspace_exporter.worker.symbols.file_bytes import FileBytes
from ebpf_userspace_exporter.worker.symbols.symbol_table import SymbolTable
from ebpf_userspace_exporter.worker.target_files import MappedFile

_MAX_TABLES = 64
_MAX_FUNCTIONS = 1 << 20
_MAX_TEXTS = 1 << 14
_MAX_NAME_CHARACTERS = 512
_REFRESH_SECONDS = 0.1
_UNKNOWN = "[unknown]"


class Symbolizer:
    """The symbols of the process `pid`. In the worker.

    What is mapped is looked at, and its files are opened, here and now: afterwards the process may exit, and be named
    from what was known. It is looked at again, at most every 0.1 s, when an address is asked for the first time. An
    address keeps its name, as long as it is one of the last 16 384: to a map it is the same key, whatever is there now.
    """

    def __init__(self, pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._space = AddressSpace(pid)
        self._looked_at = clock()
        self._tables: OrderedDict[FileBytes, SymbolTable | None] = OrderedDict()
        self._demangler = Demangler()
        self._known_name = functools.lru_cache(_MAX_TEXTS)(self._find_name)

    def name(self, address: int) -> str:
        """Return `function+0x12`, the function demangled, as at most 512 characters and the offset.

        Where no function is known, `libfoo.so+0x1234`: the file's base name and the address as linked, for addr2line
        and objdump; of what is no ELF file, the offset in the file. In no file: `[vdso]`, `[anon]` (code made at run
        time), `[unknown]` where nothing executable is mapped. LookupError if the process could never be looked at.
        """
        if not self._space.is_known:
            raise LookupError("the process was gone before it could be looked at")
        with suppress(LookupError):
            return self._known_name(address)
        return _UNKNOWN

    def close(self) -> None:
        """Let go of the target's files."""
        self._space.close()
        self._tables.clear()
        self._known_name.cache_clear()

    def _find_name(self, address: int) -> str:
        now = self._clock()
        if now - self._looked_at >= _REFRESH_SECONDS:
            self._space.refresh()
            self._looked_at = now
        code = self._space.find(address)
        if code is None:
            raise LookupError(address)
        return code.name if code.mapped is None else self._name_in_file(code, code.mapped, address)

    def _name_in_file(self, code: CodeRange, mapped: MappedFile, address: int) -> str:
        linked = address - code.start + mapped.offset
        with suppress(ElfError):
            table = self._table(mapped)
            if table is not None:
                linked = table.address_of(linked) or linked
                function = table.function_at(linked)
                if function is not None:
                    name, start = function
                    return f"{self._demangler.demangle(name)[:_MAX_NAME_CHARACTERS]}+{linked - start:#x}"
        return f"{code.name}+{linked:#x}"

    def _table(self, mapped: MappedFile) -> SymbolTable | None:
        """Return the file's functions, None if it has none that can be read; those used last are kept.

        What does not fit beside them has none: reading large tables again and again would take seconds each time.
        """
        content = self._space.content(mapped)
        if content is None:
            return None
        if content not in self._tables:
            while len(self._tables) >= _MAX_TABLES:
                self._tables.popitem(last=False)
            kept = sum(len(table) for table in self._tables.values() if table is not None)
            self._tables[content] = _read_table(content, _MAX_FUNCTIONS - kept)
        self._tables.move_to_end(content)
        return self._tables[content]


def _read_table(content: FileBytes, max_functions: int) -> SymbolTable | None:
    try:
        return SymbolTable(content, max_functions)
    except ElfError:
        return None
