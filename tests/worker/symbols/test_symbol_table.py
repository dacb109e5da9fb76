"""Functions are those of nm, from their first byte to their last; files that lie cost an ElfError."""

import contextlib
import random
import re
import struct
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.elf import ElfError
from ebpf_userspace_exporter.worker.symbols.symbol_table import SymbolTable
from tests.worker.symbols.conftest import Compile, run

MANY = 100_000

# Two functions of unknown size, one within another, a gap, several names for one place, and a section that ends.
ASSEMBLY = """
    .text
    .globl outer, inner, unsized, __alias, _alias, alias_of_it, last
    .type outer, @function
outer: nop; nop
    .type inner, @function
inner: nop; nop
    .size inner, 2
    nop; nop
    .size outer, 6
    nop; nop
    .type unsized, @function
unsized: nop; nop; nop
    .type __alias, @function
    .type _alias, @function
    .type alias_of_it, @function
__alias:
_alias:
alias_of_it: nop; nop
    .size __alias, 2
    .size _alias, 2
    .size alias_of_it, 2
    nop
    .type last, @function
last: nop; nop
    .section .other, "ax"
    nop; nop
"""


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assembled")
    (folder / "code.s").write_text(ASSEMBLY)
    run("gcc", "-shared", "-nostdlib", "-o", folder / "code.so", str(folder / "code.s"))
    return folder / "code.so"


@pytest.fixture(scope="module")
def content(assembled: Path) -> bytes:
    return assembled.read_bytes()


def address_in(path: Path, name: str) -> int:
    [address] = re.findall(rf"^(\w+) \w {name}$", run("nm", path), re.MULTILINE)
    return int(address, 16)


def names_from(table: SymbolTable, address: int, count: int) -> list[str | None]:
    found = [table.function_at(address + offset) for offset in range(count)]
    return [f"{function[0].decode()}@{function[1] - address}" if function else None for function in found]


def test_the_innermost_function_is_found_and_nothing_beyond_an_end(assembled: Path, content: bytes) -> None:
    names = names_from(SymbolTable(content, MANY), address_in(assembled, "outer"), 8)

    assert names == ["outer@0"] * 2 + ["inner@2"] * 2 + ["outer@0"] * 2 + [None] * 2


def test_of_unknown_size_a_function_ends_with_the_next_one_or_with_its_section(assembled: Path, content: bytes) -> None:
    names = names_from(SymbolTable(content, MANY), address_in(assembled, "unsized"), 10)

    assert names == ["unsized@0"] * 3 + ["alias_of_it@3"] * 2 + [None] + ["last@6"] * 2 + [None] * 2


def test_of_several_names_the_plainest_is_taken(assembled: Path, content: bytes) -> None:
    assert names_from(SymbolTable(content, MANY), address_in(assembled, "_alias"), 2) == ["alias_of_it@0"] * 2


@pytest.mark.parametrize("strip", [False, True], ids=["all symbols", "dynamic symbols"])
@pytest.mark.parametrize("options", [("-pie", "-fPIE"), ("-no-pie", "-fno-pie")], ids=["pie", "fixed"])
def test_every_function_of_nm_is_found_by_its_first_and_last_byte(
    strip: bool, options: tuple[str, ...], compile_program: Compile
) -> None:
    path = compile_program(*options, strip=strip)["app"].path.with_suffix("")
    said = run("nm", "-S", "--defined-only", *(["-D"] if strip else []), path)
    known = {
        (int(address, 16), int(size, 16), name)
        for address, size, name in re.findall(r"^(\w+) (\w+) [tTwWi] (\S+?)(?:@\S+)?$", said, re.MULTILINE)
    }
    table = SymbolTable(path.read_bytes(), MANY)

    assert len(known) > 10
    for address, size, _ in known:
        for place in (address, address + size - 1):
            found = table.function_at(place)
            assert found
            assert found[1] == address
            assert found[0].decode() in {name for start, _, name in known if start == address}


def test_indirect_functions_are_found(compile_program: Compile) -> None:
    path = Path(next(line.split()[2] for line in run("ldd", "/bin/true").splitlines() if "libc.so" in line))
    found = re.findall(r"^(\w+) i (\w+)@", run("nm", "-D", path), re.MULTILINE)
    table = SymbolTable(path.read_bytes(), MANY)

    assert len(found) > 50
    for address, _ in found:
        function = table.function_at(int(address, 16))
        assert function
        assert function[0].decode() in {name for place, name in found if place == address}


@pytest.mark.parametrize("options", [("-pie", "-fPIE"), ("-no-pie", "-fno-pie", "-Wl,-z,noseparate-code")])
def test_places_in_the_file_are_those_of_readelf(options: tuple[str, ...], compile_program: Compile) -> None:
    path = compile_program(*options)["app"].path
    [(address, offset)] = re.findall(r" \.text +PROGBITS +(\w+) (\w+)", run("readelf", "-SW", path))
    table = SymbolTable(path.read_bytes(), MANY)

    assert table.address_of(int(offset, 16)) == int(address, 16)
    assert table.address_of(1 << 50) is None


def test_a_file_without_symbols_has_places_and_no_functions(assembled: Path, tmp_path: Path) -> None:
    run(
        "objcopy", "--strip-all", "--remove-section=.dynsym", "--remove-section=.gnu.hash", assembled, tmp_path / "none"
    )
    table = SymbolTable((tmp_path / "none").read_bytes(), MANY)

    assert len(table) == 0
    assert table.function_at(address_in(assembled, "outer")) is None


def test_the_number_of_functions_is_bounded(content: bytes) -> None:
    count = len(SymbolTable(content, MANY))

    assert len(SymbolTable(content, count)) == count == 7
    with pytest.raises(ElfError, match="more than 6 functions"):
        SymbolTable(content, 6)


def test_a_name_behind_the_names_is_none(assembled: Path, content: bytes) -> None:
    [size] = re.findall(r" \.strtab +STRTAB +\w+ \w+ (\w+)", run("readelf", "-SW", assembled))
    outer = address_in(assembled, "outer")
    symbol_at = content.rindex(struct.pack("<QQ", outer, 6)) - 8

    damaged = content[:symbol_at] + struct.pack("<I", int(size, 16) + 1) + content[symbol_at + 4 :]

    assert SymbolTable(content, MANY).function_at(outer) == (b"outer", outer)
    assert SymbolTable(damaged, MANY).function_at(outer) is None


def test_damaged_files_are_elf_errors_or_tables_that_answer(content: bytes) -> None:
    noise = random.Random(11)
    read = 0
    for _ in range(3000):
        damaged = bytearray(content)
        for _ in range(noise.choice([1, 4, 30])):
            damaged[noise.randrange(len(damaged))] = noise.choice([0, 1, 0x7F, 0xFF, noise.randrange(256)])
        with contextlib.suppress(ElfError):
            table = SymbolTable(bytes(damaged), MANY)
            read += 1
            for address in (0, 0x1000, 0x1004, (1 << 64) - 1):
                table.function_at(address)
                table.address_of(address)

    assert 100 < read < 3000
