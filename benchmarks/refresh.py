"""How long does a scrape wait for 300 workers to read their maps, and what does that cost?

300 small programs call a probed function; before each refresh each of them has counted in every one of its 100 series.
The refresh is asked for as the web asks, on the control socket. That the files of all workers then hold every call, but
for those that the answer calls stale, is checked each time. Between refreshes nobody may wake up. The peer is what one
would write with bcc and prometheus_client for one target: read the map by items(), and inc() the labelled counters of
multiprocess mode.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.bcc_peer import peer_environment
from benchmarks.fleet import log_lines
from benchmarks.readings import exact_cpu_seconds, print_conditions, print_table, spread, voluntary_switches

from ebpf_userspace_exporter.worker.metric_file import read_metric_file
from tests.product.compiled import compile_c
from tests.product.exporter import Exporter, exporter, until

TARGETS, SERIES = 300, 100
RUNS, TRACED_RUNS, PEER_RUNS = 25, 5, 25
IDLE_SECONDS = 10.0
GOAL_SECONDS = 0.15

CONFIG = """
programs:
  - name: calls
    max_series: 100000
    metrics:
      counters:
        - name: calls_total
          help: Calls
          table: counts
          labels: [{{name: code, size: 4, decoders: [{{name: uint}}]}}]
    uprobes: {{event: on_event}}
    attachment: {{binary_name: {name}}}
    code: |
      #include <uapi/linux/ptrace.h>
      BPF_HASH(counts, u32);
      int on_event(struct pt_regs *ctx) {{ u32 code = PT_REGS_PARM1(ctx); counts.increment(code); return 0; }}
"""

# `herd N CODES` forks N processes that sleep. For each line on stdin each of them calls event() once with every code,
# and when all have, the herd says so; at the end of stdin all end. The herd itself has another name than its members.
HERD = r"""
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

__attribute__((noinline, noipa)) void event(uint32_t code) { __asm__ volatile("" ::"r"(code) : "memory"); }

int main(int argc, char **argv) {
    int number = argc > 2 ? atoi(argv[1]) : 0, codes = argc > 2 ? atoi(argv[2]) : 0, line, received;
    atomic_int *done = mmap(NULL, sizeof *done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t *members = calloc(number, sizeof *members);
    sigset_t orders;
    sigemptyset(&orders);
    sigaddset(&orders, SIGUSR1);
    sigprocmask(SIG_BLOCK, &orders, NULL);
    for (int i = 0; i < number; i++)
        if (!(members[i] = fork())) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            while (!sigwait(&orders, &received)) {
                for (int code = 0; code < codes; code++) event(code);
                atomic_fetch_add(done, 1);
            }
            return 1;
        }
    prctl(PR_SET_NAME, "herd");
    puts("begun");
    fflush(stdout);
    while ((line = getchar()) != EOF) {
        if (line != '\n') continue;
        atomic_store(done, 0);
        for (int i = 0; i < number; i++) kill(members[i], SIGUSR1);
        while (atomic_load(done) < number) usleep(500);
        puts("done");
        fflush(stdout);
    }
    return 0;
}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One refresh; CPU of the supervisor, and of all workers together, in seconds; `stale` workers were too late."""

    stale: int
    wall: float
    supervisor: float
    workers: float


def main() -> None:
    """Measure and print."""
    print_conditions()
    with tempfile.TemporaryDirectory(prefix="exporter-bench-") as folder:
        program = compile_c(HERD, Path(folder, f"herd-{os.getpid() % 10**6}"))
        with _herd(program) as herd, _attached(program.name) as running:
            workers = running.children("exporter-worker")
            first, *runs = (_measure(running, herd, workers, run) for run in range(1, RUNS + 2))
            unchanged = [_timed(running, workers) for _ in range(RUNS)]
            wakeups = _wakeups(workers)
            calls = [_calls(running, pid) for pid in (running.process.pid, workers[TARGETS // 2])]
    peer = [float(line) for line in _peer().split()]
    rows = [
        ["asked until answered, wall", *spread([1000 * run.wall for run in runs], 1)],
        ["supervisor, CPU", *spread([1000 * run.supervisor for run in runs], 1)],
        [f"{TARGETS} workers together, CPU", *spread([1000 * run.workers for run in runs], 1)],
        ["nothing was counted: wall", *spread([1000 * run.wall for run in unchanged], 1)],
        ["nothing was counted: supervisor, CPU", *spread([1000 * run.supervisor for run in unchanged], 1)],
        ["nothing was counted: workers, CPU", *spread([1000 * run.workers for run in unchanged], 1)],
        ["the first, which makes all series: wall", "", f"{1000 * first.wall:.1f}", ""],
        ["the first: workers, CPU", "", f"{1000 * first.workers:.1f}", ""],
        [
            f"peer: bcc and prometheus_client, {TARGETS} times, CPU",
            *spread([1000 * TARGETS * each for each in peer], 1),
        ],
    ]
    title = f"A refresh of {TARGETS} workers with {SERIES} series each, {RUNS} times"
    print_table(title, ["ms", "min", "median", "max"], rows)
    wall = median([run.wall for run in runs])
    late = sum(run.stale > 0 for run in runs)
    verdict = "met" if wall <= GOAL_SECONDS and not late else "missed"
    print(
        f"{1000 * wall:.0f} ms, goal {1000 * GOAL_SECONDS:.0f} ms; {late} runs with stale workers, goal 0: {verdict};"
    )
    print(f"{wakeups} wakeups of idle workers in {IDLE_SECONDS:.0f} s, goal 0: {'missed' if wakeups else 'met'};")
    supervisor, worker = calls
    if supervisor is not None and worker is not None:
        print(f"system calls of a refresh: {supervisor / TARGETS:.2f} a worker by the supervisor, {worker:.0f} by each")


def _measure(running: Exporter, herd: "subprocess.Popen[bytes]", workers: Sequence[int], turn: int) -> Run:
    """Have everything counted once more, and be sure that the refresh has brought all of it."""
    _tell(herd)
    run = _timed(running, workers)
    files = list(running.state_dir.glob("counter_calls-*.db"))
    fresh = [file for file in files if set(read_metric_file(file).values()) == {(float(turn), float(turn))}]
    assert len(files) == TARGETS, f"{len(files)} files"
    assert len(fresh) >= TARGETS - run.stale, f"{len(fresh)} of {TARGETS} are fresh, {run.stale} were told to be stale"
    return run


def _timed(running: Exporter, workers: Sequence[int]) -> Run:
    supervisor, spent = exact_cpu_seconds(running.process.pid), sum(map(exact_cpu_seconds, workers))
    begin = time.perf_counter()
    ok, fresh, stale = _refresh(running).split()
    wall = time.perf_counter() - begin
    assert ok == b"ok", ok
    assert int(fresh) + int(stale) == TARGETS
    time.sleep(0.2)  # who has answered goes to sleep; who was late answers
    supervisor = exact_cpu_seconds(running.process.pid) - supervisor
    return Run(int(stale), wall, supervisor, sum(map(exact_cpu_seconds, workers)) - spent)


def _refresh(running: Exporter) -> bytes:
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(running.state_dir / "control.sock"))
        control.send(b"refresh 1.0\n")
        return control.recv(100)


def _wakeups(workers: Sequence[int]) -> int:
    before = sum(map(voluntary_switches, workers))
    time.sleep(IDLE_SECONDS)
    return sum(map(voluntary_switches, workers)) - before


def _calls(running: Exporter, pid: int) -> float | None:
    """Return how many system calls of this process a refresh takes, None where there is no strace."""
    if shutil.which("strace") is None:
        return None
    output = running.folder / f"calls-{pid}"
    command = ["strace", "-c", "-U", "calls,name", "-o", str(output), "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracing:
        assert tracing.stderr is not None
        assert b"attached" in tracing.stderr.readline()
        for _ in range(TRACED_RUNS):
            _refresh(running)
        tracing.terminate()
    found = re.search(r"^ *(\d+) total$", output.read_text(), re.MULTILINE)
    assert found is not None, output.read_text()
    return int(found[1]) / TRACED_RUNS


def _peer() -> str:
    """Return the CPU seconds of each of the peer's refreshes, as text."""
    with tempfile.TemporaryDirectory(prefix="exporter-bench-", dir="/dev/shm") as folder:
        command = [sys.executable, str(Path(__file__).with_name("bcc_refresh.py")), str(SERIES), str(PEER_RUNS)]
        with peer_environment() as environment:
            environment |= {"PROMETHEUS_MULTIPROC_DIR": folder}
            return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout


@contextlib.contextmanager
def _attached(name: str) -> Iterator[Exporter]:
    with exporter(CONFIG.format(name=name), "--log-format=json") as running:

        def all_attached() -> bool:
            return sum(line.event == "attached" for line in log_lines(running)) == TARGETS

        until(all_attached, f"{TARGETS} attached")
        yield running


@contextlib.contextmanager
def _herd(program: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [str(program), str(TARGETS), str(SERIES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as herd:
        try:
            assert herd.stdout is not None
            assert herd.stdout.readline() == b"begun\n"
            yield herd
        finally:
            herd.kill()


def _tell(herd: "subprocess.Popen[bytes]") -> None:
    assert herd.stdin is not None
    assert herd.stdout is not None
    herd.stdin.write(b"\n")
    assert herd.stdout.readline() == b"done\n"


if __name__ == "__main__":
    main()
