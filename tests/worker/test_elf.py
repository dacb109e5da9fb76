"""What readelf says of well-formed files, and ElfError for everything else."""

import contextlib
import mmap
import random
import re
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.elf import AmbiguousSymbolError, Elf, ElfError, IndirectFunctionError

SOURCE = r"""
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>
__extension__ unsigned short app_hit_semaphore __attribute__((section(".probes")));
int level = 3;
static int resolved(void) { return 1; }
static void *resolve(void) { return resolved; }
__asm__(".symver old_way,way@OLD\n.symver new_way,way@@NEW");
int old_way(void) { return 1; }
int new_way(void) { return 2; }
int indirect(void) __attribute__((ifunc("resolve")));
__attribute__((noinline)) int je_hit(int x) { DTRACE_PROBE1(app, hit, x); return x; }
__attribute__((noinline)) int hit(int x) { DTRACE_PROBE2(app, hit, 5, level); return x + 1; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elf")
    (folder / "versions").write_text("OLD {};\nNEW {global: *;};\n")
    (folder / "source.c").write_text(SOURCE)
    for name in ("one", "two"):
        local = "static int __attribute__((noinline, used)) same(void) { return 1; }\n"
        (folder / f"{name}.c").write_text(local + f"int {name}(void) {{ return same(); }}\n")
    command = ["gcc", "-O1", "-shared", "-fPIC", "-o", "library.so", "source.c", "one.c", "two.c"]
    subprocess.run([*command, "-Wl,--version-script=versions"], cwd=folder, check=True, timeout=60)
    return folder / "library.so"


@pytest.fixture(scope="module")
def content(library: Path) -> bytes:
    return library.read_bytes()


def readelf(option: str, path: Path) -> str:
    return subprocess.run(["readelf", option, "-W", path], capture_output=True, text=True, check=True).stdout


def test_notes_are_those_of_readelf(library: Path, content: bytes) -> None:
    said = re.findall(
        r"Name: (\w+)\n\s*Location: (\w+), Base: \w+, Semaphore: (\w+)\n\s*Arguments: (.*)", readelf("-n", library)
    )

    notes = list(Elf(content).sdt_notes())

    assert len(notes) == 2
    assert {note.provider for note in notes} == {"app"}
    assert [(note.name, note.location, note.semaphore, note.arguments) for note in notes] == [
        (name, int(location, 16), int(semaphore, 16), arguments) for name, location, semaphore, arguments in said
    ]


def test_notes_follow_a_base_section_that_was_moved(content: bytes) -> None:
    [before, *_] = Elf(content).sdt_notes()
    moved = bytearray(content)
    sections_at = struct.unpack_from("<Q", moved, 0x28)[0]
    for index in range(struct.unpack_from("<H", moved, 0x3C)[0]):
        header = sections_at + 64 * index
        if struct.unpack_from("<Q", moved, header + 32)[0] == 1 and struct.unpack_from("<I", moved, header + 4)[0] == 1:
            address = struct.unpack_from("<Q", moved, header + 16)[0]
            struct.pack_into("<Q", moved, header + 16, address + 0x1000)  # .stapsdt.base is the section of one byte

    [after, *_] = Elf(bytes(moved)).sdt_notes()

    assert (after.location, after.semaphore) == (before.location + 0x1000, before.semaphore + 0x1000)


def test_a_function_is_found_by_its_whole_name(library: Path, content: bytes) -> None:
    said = dict(re.findall(r"(\w{16}) +\d+ FUNC .* (hit|je_hit)$", readelf("-s", library), re.MULTILINE))

    for address, name in said.items():
        assert Elf(content).function_address(name) == int(address, 16)
    assert set(said.values()) == {"hit", "je_hit"}
    assert Elf(content).function_address("it") is None
    assert Elf(content).function_address("") is None
    assert Elf(content).function_address("hi\0t") is None


def test_the_default_version_of_a_symbol_is_taken(content: bytes) -> None:
    elf = Elf(content)

    assert elf.function_address("way") == elf.function_address("new_way")
    assert elf.function_address("old_way") != elf.function_address("new_way")


def test_indirect_and_ambiguous_functions_are_refused(content: bytes) -> None:
    with pytest.raises(IndirectFunctionError, match="indirect"):
        Elf(content).function_address("indirect")
    with pytest.raises(AmbiguousSymbolError, match="2 functions"):
        Elf(content).function_address("same")


def test_a_variable_is_no_function(content: bytes) -> None:
    assert Elf(content).variable_address("level")
    assert Elf(content).function_address("level") is None


def test_addresses_become_file_offsets_and_back(content: bytes) -> None:
    elf = Elf(content)
    address = elf.variable_address("level")
    assert address

    assert struct.unpack_from("<i", content, elf.file_offset(address))[0] == 3
    page = elf.file_offset(address) // mmap.PAGESIZE * mmap.PAGESIZE
    assert elf.address_of(page) == address // mmap.PAGESIZE * mmap.PAGESIZE
    with pytest.raises(ElfError):
        elf.file_offset(1 << 62)


def test_function_names_are_those_that_the_file_defines(content: bytes) -> None:
    names = set(Elf(content).function_names())

    assert names >= {"hit", "je_hit", "way", "old_way", "same", "indirect"}
    assert not names & {"level", "__cxa_finalize", ""}


def test_a_stripped_file_has_the_names_of_exported_functions_alone(
    library: Path, content: bytes, tmp_path: Path
) -> None:
    subprocess.run(["strip", "-o", tmp_path / "stripped", library], check=True)
    stripped = Elf((tmp_path / "stripped").read_bytes())

    assert Elf(content).has_local_symbols()
    assert not stripped.has_local_symbols()
    assert "hit" in set(stripped.function_names())
    assert "same" not in set(stripped.function_names())


def test_go_is_told_by_its_sections(library: Path, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "id").write_bytes(b"id")
    subprocess.run(
        ["objcopy", "--add-section", f".note.go.buildid={tmp_path}/id", library, tmp_path / "go"], check=True
    )

    assert not Elf(content).is_go()
    assert Elf((tmp_path / "go").read_bytes()).is_go()


def test_a_jvm_is_searched_in_well_below_a_second() -> None:
    found = sorted(Path("/usr/lib/jvm").glob("*/lib/server/libjvm.so"))
    if not found:
        pytest.skip("no JVM is installed")
    with found[0].open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        begun = time.process_time()
        elf = Elf(content)
        assert elf.function_address("JNI_CreateJavaVM")
        assert len(list(elf.sdt_notes())) > 100
        assert time.process_time() - begun < 0.8


def use_everything(content: bytes) -> None:
    elf = Elf(content)
    calls: list[Callable[[], object]] = [
        lambda: list(elf.sdt_notes()),
        lambda: [elf.file_offset(note.location) for note in elf.sdt_notes()],
        lambda: elf.function_address("hit"),
        lambda: elf.function_address("way"),
        lambda: elf.variable_address("level"),
        lambda: list(elf.function_names()),
        lambda: elf.address_of(0),
        elf.is_go,
    ]
    for call in calls:
        with contextlib.suppress(ElfError):
            call()


def expect_elf_error_or_nothing(content: bytes) -> None:
    with contextlib.suppress(ElfError):
        use_everything(content)


def test_a_truncated_file_is_an_elf_error(content: bytes) -> None:
    for length in [*range(65), *range(65, len(content), 97)]:
        with pytest.raises(ElfError):
            use_everything(content[:length])


def test_a_header_of_any_bytes_is_at_worst_an_elf_error(content: bytes) -> None:
    for at in range(6, 64):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            expect_elf_error_or_nothing(content[:at] + bytes([value]) + content[at + 1 :])


def test_flipped_bytes_are_at_worst_an_elf_error(content: bytes) -> None:
    chance = random.Random(7)
    sections_at = struct.unpack_from("<Q", content, 0x28)[0]
    notes_at = content.index(b"stapsdt\0") - 12
    for _ in range(600):
        damaged = bytearray(content)
        for begin, end in (
            (0, len(content)),
            (sections_at, len(content)),
            (64, 64 + 56 * 8),
            (notes_at, notes_at + 200),
        ):
            damaged[chance.randrange(begin, end)] = chance.randrange(256)
        expect_elf_error_or_nothing(bytes(damaged))
