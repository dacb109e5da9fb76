"""The functions of one ELF file, sorted by address, in 24 bytes each."""

from array import array
from bisect import bisect_right
from itertools import islice

from ebpf_userspace_exporter.worker.elf import Content, Elf, ElfError

_MAX_CODE_SPANS = 64
_MAX_NAME_BYTES = 4096
_MAX_ENCLOSING = 16
_MAX_ADDRESS = (1 << 64) - 1


class SymbolTable:
    """Says which function of a file an address is in; `content` must outlive this.

    ElfError for a file that lies, or has more than `max_functions`.
    The addresses are virtual ones, as linked: those that nm shows and addr2line takes.
    """

    def __init__(self, content: Content, max_functions: int) -> None:
        elf = Elf(content)
        self._content = content
        self._spans = tuple(islice(elf.code_spans(), _MAX_CODE_SPANS))
        self._starts, self._ends, self._names = _sorted_functions(elf, max_functions)

    def __len__(self) -> int:
        return len(self._starts)

    def address_of(self, offset: int) -> int | None:
        """Return the address of a byte of the file, None where it is no code."""
        for span_offset, address, size in self._spans:
            if span_offset <= offset < span_offset + size:
                return address + offset - span_offset
        return None

    def function_at(self, address: int) -> tuple[bytes, int] | None:
        """Return the name, as linked, of the function that the address is in, and where it begins; None if in none.

        Of functions within one another it is the innermost. ElfError where the file cannot be read any more.
        """
        behind = bisect_right(self._starts, address)
        for index in range(behind - 1, max(behind - 1 - _MAX_ENCLOSING, -1), -1):
            if address < self._ends[index]:
                name = self._plainest_name(index)
                return (name, self._starts[index]) if name else None
        return None

    def _plainest_name(self, index: int) -> bytes:
        """Return one of the names that the place has, the same each time: `malloc`, not `__libc_malloc`."""
        start = self._starts[index]
        first = index
        while first and self._starts[first - 1] == start and index - first < _MAX_ENCLOSING:
            first -= 1
        names = filter(None, map(self._name, range(first, index + 1)))
        return min(names, key=lambda name: (len(name) - len(name.lstrip(b"_")), len(name), name), default=b"")

    def _name(self, index: int) -> bytes:
        at = self._names[index]
        return self._content[at : at + _MAX_NAME_BYTES].partition(b"\0")[0].partition(b"@")[0]


def _sorted_functions(elf: Elf, max_functions: int) -> "tuple[array[int], array[int], array[int]]":
    """Return starts, ends and places of names; a function of unknown size ends where the next one starts."""
    starts, sizes, limits, names = (array("Q") for _ in range(4))
    for address, size, section_end, name_at in elf.functions():
        if len(starts) == max_functions:
            raise ElfError(f"more than {max_functions} functions")
        starts.append(address)
        sizes.append(size)
        limits.append(section_end)
        names.append(name_at)
    order = sorted(range(len(starts)), key=starts.__getitem__)
    ends = array("Q", bytes(8 * len(order)))
    start = following = _MAX_ADDRESS
    for place in range(len(order) - 1, -1, -1):
        index = order[place]
        if starts[index] != start:
            start, following = starts[index], start
        ends[place] = min(start + sizes[index] if sizes[index] else following, limits[index])
    return array("Q", map(starts.__getitem__, order)), ends, array("Q", map(names.__getitem__, order))
