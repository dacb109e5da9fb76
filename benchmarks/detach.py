"""How long until nothing is left in the targets: of a program with sixteen functions, of two hundred workers?

Detached is: no breakpoint is left in the memory of a target, and no worker is left, which the kernel keeps until it has
let go of its links. Asked for by SIGHUP without the program, and by SIGTERM. The peer is bcc's own cleanup of as many
uprobes, which are perf events: one process with sixteen, then some processes with two each, all told at once.
"""

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.bcc_peer import peer_environment
from benchmarks.readings import print_conditions, print_table, spread

from tests.product.compiled import compile_c
from tests.product.exporter import Exporter, exporter, until

FUNCTIONS = 16
RUNS = 5
WORKERS, WORKER_FUNCTIONS = 200, 2
STOPS = {"UPROBE_MULTI": 3, "perf events": 1}  # of these a stop takes most of a minute
PEERS, PEER_RUNS = 10, 2
FUNCTIONS_GOAL_SECONDS = 0.1
WORKERS_GOAL_SECONDS = 3.0
_DEADLINE_SECONDS = 180.0
_PAUSE_SECONDS = 0.001
_MODES = {"UPROBE_MULTI": "", "perf events": "perf"}
_NAMES = [f"work_{number}" for number in range(FUNCTIONS)]
_SOURCE = "#include <sys/sdt.h>\n#include <unistd.h>\n" + "\n".join(
    [
        *(f"__attribute__((noinline, noipa)) void {name}(void) {{ DTRACE_PROBE(bench, {name}); }}" for name in _NAMES),
        f"int main(void) {{ for (;;) {{ {' '.join(f'{name}();' for name in _NAMES)} pause(); }} }}",
    ]
)


def main() -> None:
    """Measure and print."""
    print_conditions()
    with tempfile.TemporaryDirectory(prefix="exporter-bench-") as folder:
        binary = compile_c(_SOURCE, Path(folder) / "bench-detach")
        rows = _sixteen(binary)
        goal = [f"{FUNCTIONS_GOAL_SECONDS:.3f}"]
        print_table(
            f"Removing a program with {FUNCTIONS} functions, {RUNS} runs, {PEER_RUNS} of the peer",
            ["seconds", "min", "median", "max", "goal"],
            [[name, *spread(seconds, 3), *goal] for name, seconds in rows],
        )
        rows = _two_hundred(binary)
        goal = [f"{WORKERS_GOAL_SECONDS:.2f}"]
        print_table(
            f"Stopping with {WORKERS} workers of {WORKER_FUNCTIONS} functions each",
            ["seconds", "min", "median", "max", "goal"],
            [[name, *spread(seconds, 2), *goal] for name, seconds in rows],
        )
        peers = _tell_peers(binary, PEERS, WORKER_FUNCTIONS)
    print(f"\npeer: {PEERS} bcc processes of {WORKER_FUNCTIONS} uprobes each, told at once, are gone in {peers:.2f} s;")
    print(f"if it goes on like that, {WORKERS} are in {peers / PEERS * WORKERS:.0f} s (extrapolated)")


def _sixteen(binary: Path) -> list[tuple[str, list[float]]]:
    rows = []
    for mode, environment in _MODES.items():
        for kind, section in (("uprobes", "uprobes"), ("USDT", "usdt")):
            config = _config(binary, section, FUNCTIONS)
            with _sleeping(binary, 1) as pids, _attached(config, environment) as running:
                times = [_remove_program(running, config, pids) for _ in range(RUNS)]
            rows.append((f"{mode}, {kind}: last breakpoint out", [seconds for seconds, _ in times]))
            rows.append((f"{mode}, {kind}: worker gone", [seconds for _, seconds in times]))
    rows.append(("peer: bcc's cleanup", [_tell_peers(binary, 1, FUNCTIONS) for _ in range(PEER_RUNS)]))
    return rows


def _two_hundred(binary: Path) -> list[tuple[str, list[float]]]:
    config = _config(binary, "uprobes", WORKER_FUNCTIONS)
    rows = []
    for mode, environment in _MODES.items():
        stops = []
        for _ in range(STOPS[mode]):
            with _sleeping(binary, WORKERS) as pids, _attached(config, environment) as running:
                workers = running.children("exporter-worker")
                assert len(workers) == WORKERS, len(workers)
                begin = time.monotonic()
                running.stop()
                exited = time.monotonic() - begin
                stops.append((exited, max(_wait_detached(pids, workers, begin))))
        rows.append((f"{mode}: exporter exited", [exited for exited, _ in stops]))
        rows.append((f"{mode}: all gone", [gone for _, gone in stops]))
    return rows


def _remove_program(running: Exporter, config: str, pids: Sequence[int]) -> tuple[float, float]:
    """Take the program out of the config and put it back; return how long until its breakpoints, its worker were gone.

    What is in its place needs no target, as there must be a program.
    """
    workers, attached = running.children("exporter-worker"), running.log.count("msg=attached")
    running.config.write_text(config.replace("bench-detach", "bench-nobody").replace("bench_total", "other_total"))
    begin = time.monotonic()
    running.process.send_signal(signal.SIGHUP)
    seconds = _wait_detached(pids, workers, begin)
    running.config.write_text(config)
    running.process.send_signal(signal.SIGHUP)
    until(lambda: running.log.count("msg=attached") > attached, "attached again", seconds=_DEADLINE_SECONDS)
    return seconds


def _tell_peers(binary: Path, processes: int, functions: int) -> float:
    """Let bcc attach to so many targets, then tell all to detach; return how long until the last has exited."""
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(peer_environment())
        pids = stack.enter_context(_sleeping(binary, processes))
        peers = []
        for pid in pids:
            command = [sys.executable, str(Path(__file__).with_name("bcc_detach.py")), str(pid), str(binary)]
            peers.append(
                stack.enter_context(
                    subprocess.Popen(
                        [*command, *_NAMES[:functions]],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        env=environment,
                        text=True,
                    )
                )
            )
        for peer in peers:
            assert peer.stdout is not None
            assert peer.stdout.readline() == "attached\n"
        begin = time.monotonic()
        for peer in peers:
            assert peer.stdin is not None
            peer.stdin.close()
        for peer in peers:
            peer.wait(_DEADLINE_SECONDS)
        return time.monotonic() - begin


def _config(binary: Path, section: str, functions: int) -> str:
    prefix = "bench:" if section == "usdt" else ""
    probes = ", ".join(f'"{prefix}{name}": on_{name}' for name in _NAMES[:functions])
    code = "\n".join(
        f"      int on_{name}(void *ctx) {{ counts.increment(0); return 0; }}" for name in _NAMES[:functions]
    )
    return f"""
programs:
  - name: bench
    attachment: {{binary_name: {binary.name}}}
    {section}: {{{probes}}}
    metrics: {{counters: [{{name: bench_total, table: counts}}]}}
    code: |
      BPF_ARRAY(counts, u64, 1);
{code}
"""


@contextlib.contextmanager
def _sleeping(binary: Path, number: int) -> Iterator[list[int]]:
    """Run so many targets that have passed all places once, and sleep."""
    processes = [subprocess.Popen([binary]) for _ in range(number)]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


@contextlib.contextmanager
def _attached(config: str, attach: str) -> Iterator[Exporter]:
    with exporter(config, "--exit-grace=1s", environment={"USERSPACE_EXPORTER_ATTACH": attach}) as running:
        yield running


def _wait_detached(pids: Sequence[int], workers: Sequence[int], begin: float) -> tuple[float, float]:
    """Return the seconds since `begin` when no breakpoint was left, and when no worker was left either."""
    until(lambda: not any(map(_breakpoints, pids)), "detached", seconds=_DEADLINE_SECONDS, pause=_PAUSE_SECONDS)
    detached = time.monotonic() - begin
    paths = [Path(f"/proc/{worker}") for worker in workers]
    until(lambda: not any(path.exists() for path in paths), "gone", seconds=_DEADLINE_SECONDS, pause=_PAUSE_SECONDS)
    return detached, time.monotonic() - begin


def _breakpoints(pid: int) -> int:
    """Return how many bytes of the code of a process's executable differ in memory from the file."""
    process = Path(f"/proc/{pid}")
    found = re.search(r"^(\w+)-(\w+) r-xp (\w+)", (process / "maps").read_text(), re.MULTILINE)
    assert found is not None
    start, end, offset = (int(word, 16) for word in found.groups())
    with (process / "exe").open("rb") as file, (process / "mem").open("rb", buffering=0) as memory:
        file.seek(offset)
        memory.seek(start)
        content = file.read(end - start)
        return sum(ours != theirs for ours, theirs in zip(memory.read(end - start), content, strict=False))


if __name__ == "__main__":
    main()
