"""What does a hit cost where many processes of one file are probed at one address, and what does it cost the others?

The kernel keeps one list per place of a file, of all who want to know of it, and goes through it at every hit of every
process that has the breakpoint. So 1 to 200 processes of one program are attached to, and one of them says what its
calls take; so does a process of the program that is not attached to, and a child that one of them forks. That is done
by UPROBE_MULTI links and by perf events, in turns, each on a copy of the file. Beside them is, if installed, bpftrace
without a pid: one probe for all processes, which cannot be limited to those that one wants.
"""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.calls import Calls, calls, compile_calls, copies
from benchmarks.hits import BPFTRACE, ENVIRONMENTS, LINKS, PERF, wait_bpftrace
from benchmarks.readings import print_conditions, print_table

from tests.product.exporter import Exporter, exporter, until

TARGETS = (1, 10, 50, 100, 200)
PROGRAMS = (1, 2, 4, 8)
PLACES = {"push": "push %rbp", "push_pair": "and the return", "sub": "sub $8,%rsp"}
ROUNDS = 100
CALLS = 50  # in a loop, which takes from 0.05 to 2 ms
UNPROBED_NANOSECONDS = 100.0  # a call takes less, with a breakpoint more
CHILDREN = 10
_DEADLINE_SECONDS = 300.0
_OTHER = "--other"  # an argument of those who are not to be attached to

# Nor are forked children, whose parent is of the same file.
_PROGRAM = """
  - name: calls_{number}
    metrics:
      counters:
        - {{name: calls_{number}_total, table: counts, labels: [{{name: place, size: 8, decoders: [{{name: uint}}]}}]}}
    uprobes: {{push: on_call, push_pair: on_call, sub: on_call}}
    uretprobes: {{push_pair: on_call}}
    attachment:
      exe: [{files}]
      not: [{{cmdline: '{other}'}}, {{parent: {{exe: [{files}]}}}}]
    code: |
      BPF_PERCPU_HASH(counts, u64, u64, 64);
      int on_call(struct pt_regs *ctx) {{
          u64 key = 0, zero = 0, *number = counts.lookup_or_try_init(&key, &zero);
          if (number) *number += 1;
          return 0;
      }}
"""


@dataclass(slots=True)
class Crowd:
    """Processes of one file, of which more and more are attached to."""

    binary: Path
    stack: contextlib.ExitStack
    exporter: Exporter | None  # None: all at once, by bpftrace
    other: Calls
    programs: list[Calls] = field(default_factory=list)

    def grow(self, targets: int) -> None:
        """Have so many processes attached to."""
        while len(self.programs) < targets:
            self.programs.append(self.stack.enter_context(calls(self.binary)))
        if self.exporter:
            _wait_enabled(self.exporter, targets)


def main() -> None:
    """Measure and print."""
    print_conditions()
    with tempfile.TemporaryDirectory(prefix="exporter-bench-") as folder:
        binary = compile_calls(Path(folder))
        _measure_targets(binary)
        _measure_programs(binary)


def _measure_targets(binary: Path) -> None:
    hits, bystanders = [], []
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(copies(binary, (LINKS, PERF, BPFTRACE)))
        crowds = {way: _attended(stack, files[way], way) for way in (LINKS, PERF)}
        if shutil.which("bpftrace"):
            crowds[BPFTRACE] = _traced(stack, files[BPFTRACE])
        else:
            print("\nbpftrace is not installed: nothing to compare with")
        for targets in TARGETS:
            for crowd in crowds.values():
                crowd.grow(targets)
            costs = _least({way: crowd.programs[0] for way, crowd in crowds.items()})
            hits.append([targets, *(costs[way, place] for place in PLACES for way in crowds)])
            others = _least({way: crowd.other for way, crowd in crowds.items()})
            children = [number for way in (LINKS, PERF) for number in _child(crowds[way].programs[0])]
            bystanders.append([targets, *(others[way, "push"] for way in crowds), *children])
    columns = [f"{title}: {way}" for title in PLACES.values() for way in crowds]
    print_table(f"ns a call, least of {ROUNDS} times {CALLS} calls", ["attached", *columns], _rounded(hits))
    for column, way in enumerate(crowds, 1):
        more = (hits[-1][column] - hits[0][column]) / (TARGETS[-1] - TARGETS[0])
        print(f"{way}: each more process that is attached to adds {more:.0f} ns to a call of push %rbp")
    columns = [f"another process: {way}" for way in crowds]
    columns += [f"a new child{what}: {way}" for way in (LINKS, PERF) for what in ("", ", ms until it is free")]
    print_table("ns a call of push %rbp of who is not attached to", ["attached", *columns], _rounded(bystanders))


def _measure_programs(binary: Path) -> None:
    """Attach so many programs to each of some processes, each of a copy of its own."""
    with contextlib.ExitStack() as stack:
        attached: dict[str, Calls] = {}
        for way in (LINKS, PERF):
            names = {programs: f"{way} {programs}" for programs in PROGRAMS}
            files = stack.enter_context(copies(binary, [*names.values()]))
            attached |= {name: stack.enter_context(calls(file)) for name, file in files.items()}
            wanted = [
                [files[name] for programs, name in names.items() if programs > number]
                for number in range(max(PROGRAMS))
            ]
            _wait_enabled(stack.enter_context(_exporter(wanted, way)), sum(PROGRAMS))
        costs = _least(attached)
    hits = [
        [programs, *(costs[f"{way} {programs}", place] for place in PLACES for way in (LINKS, PERF))]
        for programs in PROGRAMS
    ]
    columns = [f"{title}: {way}" for title in PLACES.values() for way in (LINKS, PERF)]
    print_table("ns a call of one process by the programs attached to it", ["programs", *columns], _rounded(hits))


def _rounded(rows: Sequence[Sequence[float]]) -> list[list[str]]:
    return [[f"{number:.0f}" for number in row] for row in rows]


def _least(programs: Mapping[str, Calls]) -> dict[tuple[str, str], float]:
    """Return the nanoseconds of a call by name and place; the programs take turns."""
    least = {(name, place): float("inf") for name in programs for place in PLACES}
    for _ in range(ROUNDS):
        for place in PLACES:
            for name, program in programs.items():
                least[name, place] = min(least[name, place], program.nanoseconds(place, CALLS))
    return least


def _child(program: Calls) -> tuple[float, float]:
    """Return what the first calls of a forked child took, and the milliseconds until it had no breakpoint any more."""
    first, waited = [], []
    for _ in range(CHILDREN):
        begin = time.monotonic()
        with program.child("push", CALLS) as nanoseconds:
            first.append(nanoseconds)
            until(lambda: program.nanoseconds("push", CALLS) < UNPROBED_NANOSECONDS, "a child without breakpoints")
            waited.append(time.monotonic() - begin)
    return min(first), 1e3 * median(waited)


def _exporter(files: Sequence[Sequence[Path]], way: str) -> contextlib.AbstractContextManager[Exporter]:
    """Run an exporter with one program for each list of files."""
    programs = (
        _PROGRAM.format(number=number, files=", ".join(map(str, each)), other=_OTHER)
        for number, each in enumerate(files)
    )
    return exporter("programs:" + "".join(programs), environment=ENVIRONMENTS[way])


def _wait_enabled(running: Exporter, count: int) -> None:
    until(lambda: running.total("enabled_programs") == count, f"{count} enabled", seconds=_DEADLINE_SECONDS, pause=0.2)


def _attended(stack: contextlib.ExitStack, binary: Path, way: str) -> Crowd:
    other = stack.enter_context(calls(binary, _OTHER))
    return Crowd(binary, stack, stack.enter_context(_exporter([[binary]], way)), other)


def _traced(stack: contextlib.ExitStack, binary: Path) -> Crowd:
    other = stack.enter_context(calls(binary, _OTHER))
    kinds = [("uprobe", place) for place in PLACES] + [("uretprobe", "push_pair")]
    stack.enter_context(_bpftrace([f"{kind}:{binary}:{place} {{ @[pid] = count(); }}" for kind, place in kinds]))
    return Crowd(binary, stack, None, other)


@contextlib.contextmanager
def _bpftrace(clauses: Sequence[str]) -> Iterator[None]:
    command = ["bpftrace", "-e", " ".join(clauses)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_bpftrace(process.pid)
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    main()
