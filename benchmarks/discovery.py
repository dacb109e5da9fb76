"""How soon is a process of a known program attached, and what does it cost to watch a busy machine?

Soon: 100 targets are started one after another, each at a random moment; from just before its exec to the line that
says that its probes are live. Cost: CPU of the supervisor beside 3 000 processes that sleep, alone and while somebody
else starts 1 000 others a second, which end at once, or half of them after 30 ms. Both with the kernel's events and
without. The peer is what one would write with psutil: a pass over process_iter() that asks for seven attributes, once a
scan interval.
"""

import contextlib
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import psutil
from benchmarks.fleet import log_lines
from benchmarks.readings import print_conditions, print_table

from tests.product.compiled import SOURCE, compile_c
from tests.product.exporter import Exporter, exporter, until

STARTS = 100
GAP_SECONDS = 0.15  # between two starts, on average
SLEEPERS = 3000
SPAWNS_A_SECOND = 1000
SECONDS = 15.0
SETTLE_SECONDS = 3.0
SCAN_SECONDS = 1.0  # the default interval
GOAL_P50, GOAL_P99, GOAL_PERCENT = 50.0, 250.0, 3.0

ATTRIBUTES = ["pid", "name", "ppid", "cmdline", "create_time", "exe", "username"]
MODES = {"events": {}, "no events": {"USERSPACE_EXPORTER_EVENTS": "off"}}

CONFIG = """
programs:
  - name: calls
    metrics:
      counters:
        - {{name: calls, help: Calls, table: counts, labels: [{{name: code, size: 4, decoders: [{{name: uint}}]}}]}}
    uprobes: {{event: on_event}}
    attachment: {{binary_name: {name}}}
    code: |
      #include <uapi/linux/ptrace.h>
      BPF_HASH(counts, u32);
      int on_event(struct pt_regs *ctx) {{ u32 code = PT_REGS_PARM1(ctx); counts.increment(code); return 0; }}
"""

# `herd sleep N` forks N processes that sleep; `herd spawn N PATH M` executes PATH N times a second, every Mth time with
# an argument. Both say that they have begun, and end, with all they have forked, when their stdin does.
HERD = r"""
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int is_over(void) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, 0) != 0;
}

int main(int argc, char **argv) {
    int number = argc > 2 ? atoi(argv[2]) : 0;
    if (argc > 1 && !strcmp(argv[1], "sleep")) {
        for (int i = 0; i < number; i++)
            if (!fork()) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;) pause();
            }
        puts("begun");
        fflush(stdout);
        getchar();
        return 0;
    }
    signal(SIGCHLD, SIG_IGN);
    puts("begun");
    fflush(stdout);
    double begin = now();
    long started = 0, every = atol(argv[4]);
    char *short_life[] = {argv[3], NULL}, *long_life[] = {argv[3], "long", NULL}, *none[] = {NULL};
    while (!is_over()) {
        for (; started < (now() - begin) * number; started++) {
            pid_t pid;
            char **arguments = started % every ? short_life : long_life;
            if (posix_spawn(&pid, argv[3], NULL, NULL, arguments, none)) return 1;
        }
        usleep(500);
    }
    printf("%ld\n", started);
    return 0;
}
"""
# Without a C library, so that its start is not most of what the machine does.
SHORT = r"""
static long call(long number, long first, long second) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second) : "rcx", "r11", "memory");
    return result;
}
__attribute__((naked)) void _start(void) { __asm__("mov %rsp, %rdi; call begin"); }
void begin(long *stack) {
    long nap[2] = {0, 30 * 1000 * 1000};
    if (stack[0] > 1) call(35, (long)nap, 0);
    call(60, 0, 0);
}
"""


@dataclass(frozen=True, slots=True)
class Load:
    """CPU of the supervisor, in per cent of a core: beside sleepers alone, short lives, and some that are longer."""

    asleep: float
    short: float
    mixed: float


def main() -> None:
    """Measure and print."""
    print_conditions()
    with tempfile.TemporaryDirectory(prefix="exporter-bench-") as folder:
        herd = compile_c(HERD, Path(folder, "herd"))
        short = compile_c(SHORT, Path(folder, "short"), "-nostdlib", "-static")
        target = compile_c(SOURCE, Path(folder, f"found-{os.getpid() % 10**6}"))
        times = {mode: _starts(target, environment) for mode, environment in MODES.items()}
        loads = {mode: _load(target, herd, short, environment) for mode, environment in MODES.items()}
        with _herd(herd, "sleep", str(SLEEPERS)):
            peer = 100 * _peer_seconds() / SCAN_SECONDS
    rows = [
        [mode, *(f"{each:.0f}" for each in (min(found), median(found), _p99(found), max(found)))]
        for mode, found in times.items()
    ]
    title = f"From exec to probes live, ms, {STARTS} starts; scan interval {SCAN_SECONDS * 1000:.0f} ms"
    print_table(title, ["", "min", "median", "p99", "max"], rows)
    rows = [[mode, *(f"{each:.2f}" for each in (load.asleep, load.short, load.mixed))] for mode, load in loads.items()]
    rows.append(["peer: psutil, 7 attributes", f"{peer:.1f}", "-", "-"])
    title = f"CPU, % of a core, beside {SLEEPERS} sleeping processes and spawns, {SECONDS:.0f} s each"
    print_table(title, ["", "none", f"{SPAWNS_A_SECOND}/s, ended at once", "half of them after 30 ms"], rows)
    found, load = times["events"], loads["events"]
    are_soon = median(found) <= GOAL_P50 and _p99(found) <= GOAL_P99
    print(
        f"\nmedian {median(found):.0f} ms, p99 {_p99(found):.0f} ms, goal {GOAL_P50:.0f} and {GOAL_P99:.0f}:", end=" "
    )
    print("met;" if are_soon else "missed;")
    for percent, spawns in ((load.short, "spawns that end at once"), (load.mixed, "half of them after 30 ms")):
        verdict = "met" if percent <= GOAL_PERCENT else "missed"
        print(f"{percent:.2f} % of a core, {spawns}, goal {GOAL_PERCENT:.0f} %: {verdict}")


def _starts(target: Path, environment: dict[str, str]) -> list[float]:
    """Return for each start the milliseconds to its being attached; the program was built before."""
    begun: dict[int, float] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_living(target))
        running = stack.enter_context(_watching(target, environment))
        for _ in range(STARTS):
            time.sleep(random.uniform(0, 2 * GAP_SECONDS))  # noqa: S311 - no secret
            before = time.time()  # the log's clock
            begun[stack.enter_context(_living(target)).pid] = before
        until(lambda: begun.keys() <= _attached(running).keys(), f"all attached; log:\n{running.log}")
        attached = _attached(running)
    return [1000 * (attached[pid] - before) for pid, before in begun.items()]


def _load(target: Path, herd: Path, path: Path, environment: dict[str, str]) -> Load:
    with _herd(herd, "sleep", str(SLEEPERS)), _living(target), _watching(target, environment) as running:
        time.sleep(SETTLE_SECONDS)
        asleep = _percent(running)
        short, mixed = (_beside_spawns(running, herd, path, every) for every in (10**9, 2))
    return Load(asleep, short, mixed)


def _beside_spawns(running: Exporter, herd: Path, path: Path, every: int) -> float:
    with _herd(herd, "spawn", str(SPAWNS_A_SECOND), str(path), str(every)) as spawning:
        begin = time.monotonic()
        time.sleep(SETTLE_SECONDS)
        percent = _percent(running)
        answer, _ = spawning.communicate()
    assert int(answer) / (time.monotonic() - begin) > 0.95 * SPAWNS_A_SECOND, "the machine is too slow to start so many"
    return percent


def _percent(running: Exporter) -> float:
    before, begin = _ran_seconds(running.process.pid), time.monotonic()
    time.sleep(SECONDS)
    return 100 * (_ran_seconds(running.process.pid) - before) / (time.monotonic() - begin)


def _ran_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _peer_seconds() -> float:
    """Return the CPU time of a pass; the first, in which psutil learns of every process, is not counted."""
    passes = []
    for _ in range(3):
        begin = time.thread_time()
        for process in psutil.process_iter(ATTRIBUTES):
            assert process.info
        passes.append(time.thread_time() - begin)
    return median(passes[1:])


def _p99(numbers: list[float]) -> float:
    return quantiles(numbers, n=100, method="inclusive")[-1]


@contextlib.contextmanager
def _watching(target: Path, environment: dict[str, str]) -> Iterator[Exporter]:
    arguments = ("--log-format=json", f"--scan-interval={SCAN_SECONDS:g}s")
    with exporter(CONFIG.format(name=target.name), *arguments, environment=environment) as running:
        until(lambda: len(_attached(running)) == 1, f"the first one is attached; log:\n{running.log}")
        yield running


def _attached(running: Exporter) -> dict[int, float]:
    """Return when each target was attached, by its pid, in Unix seconds."""
    return {line.pid: line.seconds for line in log_lines(running) if line.event == "attached" and line.pid is not None}


@contextlib.contextmanager
def _living(target: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([target], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def _herd(herd: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([herd, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"begun\n"
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    main()
