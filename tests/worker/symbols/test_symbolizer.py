"""Addresses that a real process saw have the names that addr2line and nm give them."""

import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.symbols.symbolizer import Symbolizer
from tests.worker.symbols.conftest import Compile, Running, Start, compile_in, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="deleted files are reached through /proc/PID/map_files")

Symbolize = Callable[[int], Symbolizer]

# Maps the file of each line at one place, instead of the one before, to be executed; an empty line leaves nothing.
PLACE = 0x2000_0000_0000
MAPPER = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mmap({PLACE - (1 << 20)}, 4096, 5, 0x32, -1, 0)
print("ready", flush=True)
for line in sys.stdin:
    libc.munmap({PLACE}, 1 << 30)
    if line.strip():
        fd = os.open(line.strip(), os.O_RDONLY)
        libc.mmap({PLACE}, os.fstat(fd).st_size, 5, 0x12, fd, 0)
        os.close(fd)
    print("done", flush=True)
"""


class Mapper:
    """A process that maps what it is told to."""

    def __init__(self) -> None:
        command = ["/usr/bin/python3", "-c", MAPPER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    @property
    def pid(self) -> int:
        return self.process.pid

    def map(self, path: Path | str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def mapper() -> Iterator[Mapper]:
    mapper = Mapper()
    yield mapper
    mapper.process.kill()
    mapper.process.communicate(timeout=20)


@pytest.fixture(scope="module")
def two_libraries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """Return two libraries that have another function at the same place, and the place."""
    folder = tmp_path_factory.mktemp("libraries")
    for name in ("one", "two"):
        (folder / f"{name}.c").write_text(f"int {name}(int x) {{ return x; }}")
        run("gcc", "-shared", "-nostdlib", "-fPIC", "-o", folder / f"{name}.so", str(folder / f"{name}.c"))
    [address] = {re.findall(r"(\w+) T", run("nm", folder / f"{name}.so"))[0] for name in ("one", "two")}
    return folder / "one.so", folder / "two.so", PLACE + int(address, 16)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def symbols(mapper: Mapper, clock: Clock) -> Iterator[Symbolizer]:
    symbols = Symbolizer(mapper.pid, clock)
    yield symbols
    symbols.close()


def expected(running: Running, file: str, address: int) -> str:
    """Return what binutils say of an address in memory, by the file before it was stripped."""
    linked = running.linked[file]
    at = address - running.bias(file)
    function = linked.function_at(at)
    return f"{function}+{at - linked.symbols()[function]:#x}"


@pytest.mark.parametrize(
    "options",
    [
        ("-pie", "-fPIE"),
        ("-no-pie", "-fno-pie"),
        ("-pie", "-fPIE", "-Wl,-z,noseparate-code"),
        ("-no-pie", "-fno-pie", "-Wl,-Ttext-segment=0x7000000"),
    ],
    ids=["pie", "fixed", "code in the first page", "elsewhere"],
)
def test_every_function_has_the_name_that_addr2line_gives_it(
    options: tuple[str, ...], compile_program: Compile, start: Start, symbolize: Symbolize
) -> None:
    running = start(compile_program(*options))
    symbols = symbolize(running.pid)

    names = {file: [symbols.name(address) for address in running.reported[file]] for file in running.reported}

    assert names == {
        file: [expected(running, file, address) for address in addresses]
        for file, addresses in running.reported.items()
    }
    string = "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >"
    functions = {name.rpartition("+")[0] for name in names["app"]}
    assert functions >= {
        "main::{lambda()#1}::operator()() const",
        "plain_c",
        "local_function()",
        "shop::(anonymous namespace)::hidden(int, char)",
        "shop::overloaded(char const*)",
        "shop::Basket<long>::count(std::vector<long, std::allocator<long> > const&)",
        f"void pack<int, double, {string} >(int&&, double&&, {string}&&)",
    }
    assert len(functions) == 11
    assert [name.rpartition("+")[0] for name in names["libshelf.so"]] == [
        "library_anchor",
        f"shelf::exported({string}&)",
        "inside()",
        "inside()",
    ]


@pytest.mark.parametrize("options", [("-pie", "-fPIE"), ("-no-pie", "-fno-pie")], ids=["pie", "fixed"])
def test_of_a_stripped_file_what_is_exported_has_a_name_and_the_rest_file_and_linked_address(
    options: tuple[str, ...], compile_program: Compile, start: Start, symbolize: Symbolize
) -> None:
    running = start(compile_program(*options, strip=True))
    symbols = symbolize(running.pid)
    local = {"local_function()", "inside()", "shop::(anonymous namespace)::hidden(int, char)"}
    local |= {"main::{lambda()#1}::operator()() const"}
    nameless = 0

    for file, addresses in running.reported.items():
        for address in addresses:
            known, at = expected(running, file, address), address - running.bias(file)
            if known.rpartition("+")[0] in local:
                nameless += 1
                assert symbols.name(address) == f"{file}+{at:#x}"
            else:
                assert symbols.name(address) == known

    assert nameless == 6


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_files_that_are_gone_from_disk_are_those_that_are_mapped(
    change: str, tmp_path: Path, start: Start, symbolize: Symbolize
) -> None:
    running = start(compile_in(tmp_path, ["-pie", "-fPIE"], strip=False))
    for name in ("app", "libshelf.so"):
        if change == "deleted":
            (tmp_path / name).unlink()
        else:
            (tmp_path / "other").write_bytes(Path("/bin/true").read_bytes())
            (tmp_path / "other").replace(tmp_path / name)

    symbols = symbolize(running.pid)

    for file, addresses in running.reported.items():
        assert [symbols.name(address) for address in addresses] == [
            expected(running, file, address) for address in addresses
        ]


def test_after_the_exit_what_was_mapped_has_its_names(
    compile_program: Compile, start: Start, symbolize: Symbolize
) -> None:
    running = start(compile_program("-pie", "-fPIE"))
    symbols = symbolize(running.pid)
    running.end()

    for file, addresses in running.reported.items():
        assert [symbols.name(address) for address in addresses] == [
            expected(running, file, address) for address in addresses
        ]
    assert symbols.name(16) == "[unknown]"


def test_nothing_is_forgotten_when_it_is_looked_at_after_the_exit(
    mapper: Mapper, symbols: Symbolizer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebpf_userspace_exporter.worker.symbols.address_space._MAX_PAST_RANGES", 0)
    mapper.process.kill()
    os.waitid(os.P_PID, mapper.pid, os.WEXITED | os.WNOWAIT)

    clock.now += 1
    assert symbols.name(PLACE - (1 << 20)) == "[anon]"
    mapper.process.wait(timeout=20)
    clock.now += 1
    assert symbols.name(PLACE - (1 << 20) + 1) == "[anon]"


def test_a_process_that_was_gone_at_the_beginning_has_no_names_at_all(symbolize: Symbolize) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait(timeout=20)
    symbols = symbolize(process.pid)

    with pytest.raises(LookupError):
        symbols.name(0x1000)


def test_what_is_mapped_later_has_its_name_too_and_keeps_it_when_it_is_gone(
    two_libraries: tuple[Path, Path, int], mapper: Mapper, symbols: Symbolizer, clock: Clock
) -> None:
    one, _, address = two_libraries
    assert symbols.name(address) == "[unknown]"

    mapper.map(one)
    clock.now += 1
    assert symbols.name(address) == "one+0x0"

    mapper.map("")
    clock.now += 1
    assert symbols.name(address + 1) == "one+0x1"


def test_another_file_in_the_same_place_is_not_taken_for_the_first(
    two_libraries: tuple[Path, Path, int], mapper: Mapper, symbols: Symbolizer, clock: Clock
) -> None:
    one, two, address = two_libraries
    mapper.map(one)
    clock.now += 1
    assert symbols.name(address) == "one+0x0"

    mapper.map(two)
    clock.now += 1

    assert symbols.name(address + 1) == "two+0x1"
    assert symbols.name(address) == "one+0x0"  # as it was counted: a map has no two rows for it


def test_the_process_is_looked_at_ten_times_a_second_and_no_oftener(
    two_libraries: tuple[Path, Path, int], mapper: Mapper, symbols: Symbolizer, clock: Clock
) -> None:
    one, _, address = two_libraries
    mapper.map(one)

    clock.now += 0.05
    assert symbols.name(address) == "[unknown]"
    clock.now += 0.06
    assert symbols.name(address) == "one+0x0"


def test_addresses_in_no_file_have_names_in_brackets(mapper: Mapper, symbols: Symbolizer) -> None:
    maps = Path(f"/proc/{mapper.pid}/maps").read_text()
    [vdso, stack] = [
        int(re.findall(rf"^(\w+)-.* \[{name}\]$", maps, re.MULTILINE)[0], 16) for name in ("vdso", "stack")
    ]

    assert symbols.name(vdso + 8) == "[vdso]"
    assert symbols.name(PLACE - (1 << 20) + 1) == "[anon]"
    assert symbols.name(stack + 8) == "[unknown]"
    assert symbols.name((1 << 64) - 1) == "[unknown]"


def test_a_file_that_is_no_elf_file_or_lies_has_its_name_and_the_offset_in_it(
    two_libraries: tuple[Path, Path, int], tmp_path: Path, mapper: Mapper, symbols: Symbolizer, clock: Clock
) -> None:
    content = two_libraries[0].read_bytes()
    sections_at = struct.pack("<Q", 1 << 62)
    contents = {"text": b"x" * 5000, "liar": content[:0x28] + sections_at + content[0x30:], "short": content[:200]}
    for offset, (name, written) in enumerate(contents.items()):
        (tmp_path / name).write_bytes(written)
        mapper.map(tmp_path / name)
        clock.now += 1

        assert symbols.name(PLACE + offset) == f"{name}+{offset:#x}"


def test_a_name_is_cut(tmp_path: Path, mapper: Mapper, symbols: Symbolizer, clock: Clock) -> None:
    (tmp_path / "long.c").write_text(f"int {'n' * 3000}(int x) {{ return x; }}")
    run("gcc", "-shared", "-nostdlib", "-fPIC", "-o", tmp_path / "long.so", str(tmp_path / "long.c"))
    [address] = re.findall(r"(\w+) T", run("nm", tmp_path / "long.so"))
    mapper.map(tmp_path / "long.so")
    clock.now += 1

    assert symbols.name(PLACE + int(address, 16) + 1) == "n" * 512 + "+0x1"


def test_what_does_not_fit_beside_other_symbols_is_shown_without(
    compile_program: Compile, start: Start, symbolize: Symbolize, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(compile_program("-pie", "-fPIE"))
    app, shelf = running.reported["app"][0], running.reported["libshelf.so"][0]
    symbols = symbolize(running.pid)
    symbols.name(app)
    [table] = filter(None, symbols._tables.values())
    monkeypatch.setattr("ebpf_userspace_exporter.worker.symbols.symbolizer._MAX_FUNCTIONS", len(table) + 3)
    symbols = symbolize(running.pid)

    assert symbols.name(app) == expected(running, "app", app)
    assert symbols.name(shelf) == f"libshelf.so+{shelf - running.bias('libshelf.so'):#x}"


def test_tables_that_were_dropped_are_read_again(
    compile_program: Compile, start: Start, symbolize: Symbolize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebpf_userspace_exporter.worker.symbols.symbolizer._MAX_TABLES", 1)
    running = start(compile_program("-pie", "-fPIE"))
    symbols = symbolize(running.pid)

    for address, shelf in zip(running.reported["app"], running.reported["libshelf.so"], strict=False):
        assert symbols.name(address) == expected(running, "app", address)
        assert len(symbols._tables) == 1
        assert symbols.name(shelf) == expected(running, "libshelf.so", shelf)


def test_the_tables_that_were_used_last_are_kept(
    compile_program: Compile, start: Start, symbolize: Symbolize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebpf_userspace_exporter.worker.symbols.symbolizer._MAX_TABLES", 2)
    running = start(compile_program("-pie", "-fPIE"))
    symbols = symbolize(running.pid)
    maps = Path(f"/proc/{running.pid}/maps").read_text()
    [libc] = [int(start, 16) for start in re.findall(r"^(\w+)-\w+ r-x.*/libc\.so\.6$", maps, re.MULTILINE)]

    symbols.name(running.reported["app"][0])
    [app] = symbols._tables
    symbols.name(running.reported["libshelf.so"][0])
    symbols.name(running.reported["app"][1])
    symbols.name(libc)

    assert len(symbols._tables) == 2
    assert app in symbols._tables


STATIC = """
#include <stdio.h>
__attribute__((noinline)) void from_here(void) { printf("%p\\n", __builtin_return_address(0)); fflush(stdout); }
int main(void) { from_here(); return getchar(); }
"""


@pytest.fixture
def static_binary(tmp_path: Path) -> Path:
    (tmp_path / "static.c").write_text(STATIC)
    run("gcc", "-O1", "-static", "-o", tmp_path / "static", str(tmp_path / "static.c"))
    (tmp_path / "static").chmod(0o755)
    return tmp_path / "static"


def test_a_program_in_a_root_of_its_own_is_named(static_binary: Path, symbolize: Symbolize) -> None:
    command = ["/static"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.chroot(static_binary.parent),  # noqa: PLW1509
    ) as process:
        assert process.stdout
        address = int(process.stdout.readline(), 16)
        name = symbolize(process.pid).name(address)
        process.communicate(b"x", timeout=20)

    assert re.fullmatch(r"main\+0x[1-9a-f][0-9a-f]?", name)


def test_without_capabilities_a_deleted_executable_is_named(static_binary: Path) -> None:
    read, write = os.pipe()
    fd = os.open(static_binary, os.O_RDONLY)
    with subprocess.Popen(
        [f"/proc/self/fd/{fd}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=65534, pass_fds=[fd]
    ) as process:
        os.close(fd)
        assert process.stdout
        address = int(process.stdout.readline(), 16)
        static_binary.unlink()
        child = os.fork()
        if child == 0:
            try:
                os.setuid(65534)
                os.write(write, Symbolizer(process.pid).name(address).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        with os.fdopen(read) as pipe:
            name = pipe.read()
        process.communicate(b"x", timeout=20)

    assert re.fullmatch(r"main\+0x[1-9a-f][0-9a-f]?", name)


def test_descriptors_are_close_on_exec_and_let_go(
    two_libraries: tuple[Path, Path, int], mapper: Mapper, clock: Clock
) -> None:
    one, two, address = two_libraries
    mapper.map(one)
    before = sorted(os.listdir("/proc/self/fd"))

    symbols = Symbolizer(mapper.pid, clock)
    symbols.name(address)
    held = len(os.listdir("/proc/self/fd"))
    assert not any(os.get_inheritable(int(fd)) for fd in set(os.listdir("/proc/self/fd")) - {*before} if is_open(fd))
    mapper.map(two)
    clock.now += 1
    symbols.name(address + 1)
    assert len(os.listdir("/proc/self/fd")) == held
    symbols.close()

    assert sorted(os.listdir("/proc/self/fd")) == before


def is_open(fd: str) -> bool:
    return Path(f"/proc/self/fd/{fd}").is_symlink()
