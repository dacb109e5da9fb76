"""What the builder's tests share: a target made for them, and building as the supervisor does: fork, memfds, wait."""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.model import Counter, Label, Metrics, Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.worker.build.headers import find_headers
from ebpf_userspace_exporter.worker.build.process import MAX_RESULT_BYTES, BuildRequest, read_result, run
from ebpf_userspace_exporter.worker.image import Image

# `work` has several locations with different arguments, `level` reads a variable relative to the program counter, the
# locations of `same` lie at one offset of their pages. The answer to a line is the three semaphores.
TARGET = r"""
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>
#include <stdio.h>
#define SEMAPHORE(name) __extension__ unsigned short name __attribute__((section(".probes")));
SEMAPHORE(app_work_semaphore) SEMAPHORE(app_level_semaphore) SEMAPHORE(app_same_semaphore)
SEMAPHORE(app_twin_semaphore) SEMAPHORE(other_twin_semaphore)
int level = 7;
__attribute__((noinline)) void work_a(int x, int y) { DTRACE_PROBE2(app, work, x, y); }
__attribute__((noinline)) void work_b(int x) { DTRACE_PROBE2(app, work, 40, x); }
__attribute__((noinline)) void set_level(int x) { level = x; DTRACE_PROBE1(app, level, level); }
__attribute__((noinline, aligned(4096))) void same_a(void) { DTRACE_PROBE1(app, same, 1); }
__attribute__((noinline, aligned(4096))) void same_b(void) { DTRACE_PROBE1(app, same, 2); }
__attribute__((noinline)) int twice(int x) { __asm__ volatile(""); return 2 * x; }
__attribute__((noinline)) void twin(void) { DTRACE_PROBE(app, twin); DTRACE_PROBE(other, twin); }
#define READ(name) (*(volatile unsigned short *)&name)
int main(void) {
    int order;
    while ((order = getchar()) != EOF) {
        if (order == 'g') {
            for (int i = 0; i < 3; i++) { work_a(41, i); same_a(); }
            for (int i = 0; i < 2; i++) { work_b(i); same_b(); set_level(30 + i); twice(i); }
        }
        if (order == 't') twin();
        if (order == '\n') {
            printf("%d %d %d\n", READ(app_work_semaphore), READ(app_level_semaphore), READ(app_same_semaphore));
            fflush(stdout);
        }
    }
    return 0;
}
"""
CODE = """
#include <uapi/linux/ptrace.h>
struct key_t { u64 probe; u64 value; };
BPF_HASH(seen, struct key_t, u64, 64);
static inline void count(u64 probe, u64 value) {
    struct key_t key = {.probe = probe, .value = value};
    seen.increment(key);
}
int on_work(struct pt_regs *ctx) { int x = -1; bpf_usdt_readarg(1, ctx, &x); count(1, x); return 0; }
int on_level(struct pt_regs *ctx) { int x = -1; bpf_usdt_readarg(1, ctx, &x); count(2, x); return 0; }
int on_same(struct pt_regs *ctx) { int x = -1; bpf_usdt_readarg(1, ctx, &x); count(3, x); return 0; }
int on_call(struct pt_regs *ctx) { count(4, 0); return 0; }
int on_return(struct pt_regs *ctx) { count(5, PT_REGS_RC(ctx)); return 0; }
"""
LABELS = (Label(name="probe", size=8, decoders=()), Label(name="value", size=8, decoders=()))


def program(
    *,
    usdt: Mapping[str, str] | None = None,
    uprobes: Mapping[str, str] | None = None,
    uretprobes: Mapping[str, str] | None = None,
    code: str = CODE,
    table: str = "seen",
    labels: tuple[Label, ...] = LABELS,
) -> Program:
    counter = Counter(name="seen_total", help="Seen.", table=table, labels=labels)
    return Program(
        name="test",
        metrics=Metrics(counters=(counter,)),
        usdt=usdt or {},
        uprobes=uprobes or {},
        uretprobes=uretprobes or {},
        attachment=Selector(binary_name=("target",)),
        code=code,
    )


@dataclass(frozen=True)
class Target:
    """The running target."""

    process: subprocess.Popen[bytes]
    binary: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def order(self, letters: str) -> list[int]:
        """Have it do something; return its semaphores of work, level and same."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{letters}\n".encode())
        self.process.stdin.flush()
        return [int(word) for word in self.process.stdout.readline().split()]


CompileC = Callable[..., Path]
StartTarget = Callable[[Path], Target]
Build = Callable[[Program, int], Image]


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> CompileC:
    def compile_c(source: str, *options: str, name: str = "target") -> Path:
        folder = tmp_path_factory.mktemp("compiled")
        (folder / "source.c").write_text(source)
        command = ["gcc", "-O2", "-o", str(folder / name), str(folder / "source.c"), *options]
        subprocess.run(command, check=True, timeout=120)
        return folder / name

    return compile_c


@pytest.fixture(scope="session")
def pie_binary(compile_c: CompileC) -> Path:
    return compile_c(TARGET, "-pie", "-fPIE")


@pytest.fixture(scope="session")
def fixed_binary(compile_c: CompileC) -> Path:
    return compile_c(TARGET, "-no-pie", "-fno-pie")


@pytest.fixture
def start_target() -> Iterator[StartTarget]:
    running: list[subprocess.Popen[bytes]] = []

    def start(binary: Path) -> Target:
        process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        running.append(process)
        target = Target(process, binary)
        assert target.order("") == [0, 0, 0]
        return target

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=20)


@pytest.fixture
def target(pie_binary: Path, start_target: StartTarget) -> Target:
    return start_target(pie_binary)


@pytest.fixture(scope="session")
def kernel_headers(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    return find_headers(None, tmp_path_factory.mktemp("headers")).path


@dataclass(frozen=True)
class Building:
    """A forked builder."""

    pid: int
    result_fd: int
    diagnostics_fd: int

    def words(self) -> bytes:
        """Wait for it, without reaping it, and return what is on its descriptor 2."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return os.pread(self.diagnostics_fd, 1 << 20, 0)

    def finish(self) -> Image:
        """Wait for it, with the CPU limit as the deadline, and read what it left."""
        _, status = os.waitpid(self.pid, 0)
        result = os.pread(self.result_fd, MAX_RESULT_BYTES + 1, 0)
        diagnostics = os.pread(self.diagnostics_fd, 1 << 20, 0)
        os.close(self.result_fd)
        os.close(self.diagnostics_fd)
        return read_result(result, diagnostics, os.waitstatus_to_exitcode(status))


StartBuild = Callable[..., Building]


@pytest.fixture
def start_build(kernel_headers: Path | None, tmp_path: Path) -> StartBuild:
    def start(program: Program, pid: int, binary: Path | None = None) -> Building:
        result_fd, diagnostics_fd = os.memfd_create("result"), os.memfd_create("diagnostics")
        child = os.fork()
        if child == 0:
            run(BuildRequest(program, pid, kernel_headers, tmp_path, binary), result_fd, diagnostics_fd)
        return Building(child, result_fd, diagnostics_fd)

    return start


@pytest.fixture
def build(start_build: StartBuild) -> Build:
    return lambda program, pid: start_build(program, pid).finish()


@pytest.fixture
def build_for(start_build: StartBuild) -> Callable[[Program, Path], Image]:
    return lambda program, binary: start_build(program, 0, binary).finish()


@pytest.fixture
def make_program() -> Callable[..., Program]:
    return program
