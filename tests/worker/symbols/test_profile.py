"""Which functions of a real program call malloc: names as addr2line has them, numbers as the program counted itself."""

import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.bpf.maps import create_map
from ebpf_userspace_exporter.worker.bpf.programs import load_program
from ebpf_userspace_exporter.worker.bpf.reading import read_map
from ebpf_userspace_exporter.worker.bpf.stacks import read_stack
from ebpf_userspace_exporter.worker.build.headers import find_headers
from ebpf_userspace_exporter.worker.build.process import MAX_RESULT_BYTES, BuildRequest, read_result
from ebpf_userspace_exporter.worker.build.process import run as run_builder
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.decoders.ustack import Ustack
from ebpf_userspace_exporter.worker.decoders.usym import Usym
from ebpf_userspace_exporter.worker.image import Image
from ebpf_userspace_exporter.worker.symbols.symbolizer import Symbolizer
from ebpf_userspace_exporter.worker.target_files import open_probed
from tests.worker.symbols.conftest import Linked, run

pytestmark = pytest.mark.bpf

# After `g` it says what it allocated, by function, and which ways it went to take(): `NAME TIMES BYTES`, `/WAY TIMES`.
SOURCE = r"""
#include <cstdio>
#include <cstdlib>
#include <sys/sdt.h>
#define APART __attribute__((noinline, noclone))
static void *volatile kept;
struct Tally { const char *name; long times, bytes; };
static Tally tallies[32];
static int used;
static void tell(const char *name, long times, long bytes) { tallies[used++] = {name, times, bytes}; }
static inline __attribute__((always_inline)) void allocate(const char *name, int times, size_t size) {
    for (int i = 0; i < times; i++) { kept = std::malloc(size); std::free(kept); }
    tell(name, times, times * size);
}
extern "C" APART void plain(void) { allocate("plain", 3, 100); }
static APART void hidden(void) { allocate("hidden()", 5, 10); }
namespace shop {
APART void basket(int) { allocate("shop::basket(int)", 7, 24); }
APART void basket(char) { allocate("shop::basket(char)", 11, 8); }
namespace { APART void unnamed(void) { allocate("shop::(anonymous namespace)::unnamed()", 13, 32); } }
template <class T> struct List {
    APART void grow(const T *) { allocate(name(), 17, sizeof(T)); }
    static const char *name();
};
template <> const char *List<int>::name() { return "shop::List<int>::grow(int const*)"; }
template <> const char *List<double>::name() { return "shop::List<double>::grow(double const*)"; }
struct Order {
    APART explicit Order(int) { allocate("shop::Order::Order(int)", 19, 40); }
    APART Order &operator+=(int) { allocate("shop::Order::operator+=(int)", 23, 48); return *this; }
    APART ~Order() { allocate("shop::Order::~Order()", 29, 56); }
};
}
static APART void twice(void) {
    kept = std::malloc(1); std::free(kept);
    __asm__ volatile("");
    kept = std::malloc(2); std::free(kept);
    tell("twice()", 2, 3);
}
static APART void with_new(void) {
    for (int i = 0; i < 31; i++) { kept = ::operator new(64); ::operator delete(kept); }
    tell("operator new(unsigned long)", 31, 31 * 64);
}
// Not probed at its first instruction: before kernel 6.11 the caller would be missing from the stack.
extern "C" APART void take(void) { __asm__ volatile("" :: "r"(__builtin_frame_address(0))); DTRACE_PROBE(app, take); }
static APART void inner(void) { take(); __asm__ volatile(""); }
static APART void left(int times) { for (int i = 0; i < times; i++) inner(); __asm__ volatile(""); }
namespace shop { APART void right(int times) { for (int i = 0; i < times; i++) take(); __asm__ volatile(""); } }
int main(void) {
    static char buffer[4096];
    setvbuf(stdin, nullptr, _IONBF, 0);
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    std::printf("%p\n", (void *)plain);
    std::fflush(stdout);
    while (std::getchar() == 'g') {
        plain(); hidden(); shop::basket(1); shop::basket('x'); shop::unnamed(); twice(); with_new();
        shop::List<int>().grow(nullptr); shop::List<double>().grow(nullptr);
        { shop::Order order(1); order += 1; }
        left(4); inner(); shop::right(6); take();
        for (int i = 0; i < used; i++) printf("%s %ld %ld\n", tallies[i].name, tallies[i].times, tallies[i].bytes);
        puts("/main;left(int);inner();take 4\n/main;inner();take 1\n/main;shop::right(int);take 6\n/main;take 1\nend");
        std::fflush(stdout);
    }
    return 0;
}
"""
CODE = """
#include <uapi/linux/ptrace.h>
BPF_HASH(calls, u64, u64, 1024);
BPF_HASH(bytes, u64, u64, 1024);
BPF_STACK_TRACE(stacks, 1024);
BPF_HASH(ways, int, u64, 1024);
int on_malloc(struct pt_regs *ctx) {
    u64 caller = 0;
    bpf_probe_read_user(&caller, sizeof caller, (void *)PT_REGS_SP(ctx));
    calls.increment(caller);
    bytes.increment(caller, PT_REGS_PARM1(ctx));
    return 0;
}
int on_take(struct pt_regs *ctx) {
    int stack_id = stacks.get_stackid(ctx, BPF_F_USER_STACK);
    ways.increment(stack_id);
    return 0;
}
"""


class Profiled:
    """The program, its maps, and its own account of what it did."""

    def __init__(self, process: "subprocess.Popen[str]", binary: Linked) -> None:
        self.process = process
        assert process.stdout
        self.bias = int(process.stdout.readline(), 16) - binary.symbols()["plain"]
        self.times: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.ways: dict[str, int] = {}

    def go(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("g")
        self.process.stdin.flush()
        for line in iter(self.process.stdout.readline, "end\n"):
            if line.startswith("/"):
                way, times = line[1:].rsplit(maxsplit=1)
                self.ways[way] = int(times)
            else:
                name, times, allocated = line.rsplit(maxsplit=2)
                self.times[name], self.bytes[name] = int(times), int(allocated)


@pytest.fixture(scope="module", params=["-pie", "-no-pie"])
def binary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Linked:
    folder = tmp_path_factory.mktemp("profiled")
    (folder / "profiled.cpp").write_text(SOURCE)
    options = ["-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-fno-builtin", request.param]
    options.append("-fPIE" if request.param == "-pie" else "-fno-pie")
    run("g++", *options, "-o", folder / "profiled", str(folder / "profiled.cpp"))
    return Linked(folder / "profiled")


@pytest.fixture
def profiled(binary: Linked) -> Iterator[Profiled]:
    process = subprocess.Popen([binary.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield Profiled(process, binary)
    process.kill()
    process.communicate(timeout=20)


def build(pid: int, scratch: Path) -> Image:
    program = Program(
        name="profile",
        uprobes={"libc:malloc": "on_malloc"},
        usdt={"app:take": "on_take"},
        attachment=Selector(binary_name=("profiled",)),
        code=CODE,
    )
    headers = find_headers(None, scratch).path
    result_fd, diagnostics_fd = os.memfd_create("result"), os.memfd_create("diagnostics")
    child = os.fork()
    if child == 0:
        run_builder(BuildRequest(program, pid, headers, scratch), result_fd, diagnostics_fd)
    _, status = os.waitpid(child, 0)
    with os.fdopen(result_fd, "rb") as result, os.fdopen(diagnostics_fd, "rb") as diagnostics:
        result.seek(0)
        diagnostics.seek(0)
        return read_result(
            result.read(MAX_RESULT_BYTES + 1), diagnostics.read(1 << 20), os.waitstatus_to_exitcode(status)
        )


@contextmanager
def attached(image: Image, pid: int) -> Iterator[dict[str, int]]:
    """Yield the maps' descriptors while the program counts."""
    with ExitStack() as stack:

        def closing(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        maps = {shape.name: closing(create_map(shape)) for shape in image.maps}
        patches = {shape.built_fd: maps[shape.name] for shape in image.maps}
        programs = {f.name: closing(load_program(f, patches, uprobe_multi=False)) for f in image.functions}
        files = [closing(open_probed(pid, file)) for file in image.files]
        for fd in attach(programs, image.probes, files, pid, uprobe_multi=False):
            closing(fd)
        yield maps


def test_functions_that_allocate_are_named_and_counted_as_they_are(
    binary: Linked, profiled: Profiled, tmp_path: Path
) -> None:
    """Everything is named after the exit, as a worker's last reading is."""
    pid = profiled.process.pid
    image = build(pid, tmp_path)
    shapes = {shape.name: shape for shape in image.maps}
    symbols = Symbolizer(pid)

    def rows(table: str) -> dict[bytes, int]:
        found = read_map(maps[table], shapes[table])
        return dict(zip(found.keys, (value for (value,) in struct.iter_unpack("=Q", found.leaves)), strict=True))

    def read(table: str, stack_id: int) -> tuple[int, ...]:
        return read_stack(maps[table], shapes[table].leaf_bytes, stack_id)

    usym = Usym(Surroundings(pid, symbols, read))
    ustack = Ustack(Surroundings(pid, symbols, read), "stacks")
    with attached(image, pid) as maps:
        profiled.go()
        profiled.process.communicate("", timeout=20)

        called = by_function(rows("calls"), usym)
        allocated = by_function(rows("bytes"), usym)
        ways = {re.sub("^.*?main;", "main;", ustack(raw)): times for raw, times in rows("ways").items()}
        addresses = [struct.unpack("=Q", raw)[0] for raw in rows("calls")]
    names = {address: usym(struct.pack("=Q", address)) for address in addresses}
    symbols.close()

    assert len(profiled.times) == 12
    assert called == profiled.times
    assert allocated == profiled.bytes
    assert ways == profiled.ways
    checked = 0
    known = binary.symbols()
    for address, name in names.items():
        function = name.rpartition("+")[0]
        if function != "operator new(unsigned long)":  # which is in libstdc++
            checked += 1
            linked = address - profiled.bias
            assert name == f"{binary.function_at(linked)}+{linked - known[function]:#x}"
    assert checked == 12  # one of the functions in two places


def by_function(rows: dict[bytes, int], usym: Callable[[bytes], str]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for raw, value in rows.items():
        function = usym(raw).rpartition("+")[0]
        sums[function] = sums.get(function, 0) + value
    return sums
