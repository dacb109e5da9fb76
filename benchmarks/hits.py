"""What does a hit cost the program that is probed, and what would it cost by bpftrace?

A small C program calls functions that begin with different instructions, and passes USDT probes. It runs as often as
there are ways to be probed: not at all, by the exporter's UPROBE_MULTI links, by its perf events, and, if installed, by
bpftrace (Debian's package of that name), which uses perf events. Each process is of a copy of the file, since probes of
one file cost whoever has probes there too. All count into maps of the same kinds under keys of the same size, and take
turns; at the end all must have counted every call.

Whatever else runs only adds time, so the cost is that of the least of many short loops. Where a process happens to lie
in memory matters too: so all is done several times, and what counts is the median of the ratios.
"""

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.calls import USDT_ARGUMENT, Calls, calls, compile_calls, copies
from benchmarks.readings import print_conditions, print_table

from tests.product.exporter import exporter, until

RUNS = 3
ROUNDS = 100
CALLS = 200  # in a loop, which takes from 0.1 to 5 ms
GOAL_RATIO = 1.05
UNPROBED, LINKS, PERF, BPFTRACE = "unprobed", "links", "perf events", "bpftrace"
ENVIRONMENTS: dict[str, dict[str, str]] = {LINKS: {}, PERF: {"USERSPACE_EXPORTER_ATTACH": "perf"}}

# What is probed, and what it is called.
COUNTED = {
    "nop5": "5-byte nop",
    "push": "push %rbp",
    "sub": "sub $8,%rsp",
    "endbr": "endbr64",
    "push_pair": "push %rbp, and the return",
    "sub_pair": "sub $8,%rsp, and the return",
}
USDT = {"usdt": "USDT (a nop), an argument read"}
TIMED = {"push_timed": "push %rbp, and the return: latency"}
COMPARED = {**COUNTED, **USDT, **TIMED}
_PAIRS = frozenset({"push_pair", "sub_pair"})
_KEYS = {place: USDT_ARGUMENT + number for number, place in enumerate(COUNTED, 1)}

# What else functions at `push %rbp` do: the exporter alone.
WORK = {
    "push_0": ("nothing", "return 0;"),
    "push_1": ("nothing, and returns 1", "return 1;"),
    "push_2": ("counts in a BPF_ARRAY", "int key = 0; one.atomic_increment(key); return 0;"),
    "push_3": ("counts in a BPF_HASH", "u64 key = 0; hash.atomic_increment(key); return 0;"),
    "push_4": ("counts in a BPF_PERCPU_HASH", "count(0); return 0;"),
    "push_5": (
        "counts by thread name in a BPF_HASH",
        "struct name key = {}; bpf_get_current_comm(&key, sizeof(key)); names.atomic_increment(key); return 0;",
    ),
    "push_6": (
        "counts by stack",
        "u32 key = stacks.get_stackid(ctx, BPF_F_USER_STACK); by_stack.increment(key); return 0;",
    ),
    "push_7": ("sends an event", "u64 event = 0; events.ringbuf_output(&event, sizeof(event), 0); return 0;"),
}

_CONFIG = """
programs:
  - name: hits
    metrics:
      counters:
        - {{name: hits_total, table: counts, labels: [{{name: key, size: 8, decoders: [{{name: uint}}]}}]}}
        - {{name: events_total, table: events, labels: [{{name: key, size: 8, decoders: [{{name: uint}}]}}]}}
      histograms:
        - name: hit_seconds
          table: latency
          bucket_type: exp2
          bucket_min: 1
          bucket_max: 40
          bucket_multiplier: 1e-9
          labels: [{{name: bucket, size: 8, decoders: [{{name: uint}}]}}]
    usdt: {{hit: on_usdt}}
    uprobes: {{{entries}, push_timed: on_entry}}
    uretprobes: {{{returns}, push_timed: on_return}}
    attachment: {{exe: {binary}}}
    code: |
      struct name {{ char text[16]; }};
      BPF_PERCPU_HASH(counts, u64, u64, 4096);
      BPF_HASH(entered, u64, u64, 4096);
      BPF_PERCPU_HASH(latency, u64, u64, 64);
      BPF_ARRAY(one, u64, 1);
      BPF_HASH(hash, u64, u64, 4096);
      BPF_HASH(names, struct name, u64, 4096);
      BPF_STACK_TRACE(stacks, 1024);
      BPF_HASH(by_stack, u32, u64, 4096);
      BPF_RINGBUF_OUTPUT(events, 64);
      static inline void count(u64 key) {{
          u64 zero = 0, *number = counts.lookup_or_try_init(&key, &zero);
          if (number) *number += 1;
      }}
      int on_usdt(struct pt_regs *ctx) {{
          u64 argument = 0;
          bpf_usdt_readarg(1, ctx, &argument);
          count(argument);
          return 0;
      }}
      int on_entry(struct pt_regs *ctx) {{
          u64 thread = (u32)bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
          entered.update(&thread, &now);
          return 0;
      }}
      int on_return(struct pt_regs *ctx) {{
          u64 thread = (u32)bpf_get_current_pid_tgid(), zero = 0, *then = entered.lookup(&thread), *number;
          if (!then) return 0;
          u64 bucket = bpf_log2l(bpf_ktime_get_ns() - *then);
          number = latency.lookup_or_try_init(&bucket, &zero);
          if (number) *number += 1;
          entered.delete(&thread);
          return 0;
      }}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to be probed: the process that is, and how to ask what was counted: by key, and in the histogram."""

    name: str
    program: Calls
    counted: Callable[[], tuple[Mapping[int, int], int]]


Run = dict[str, dict[str, float]]  # nanoseconds a call, by way and by place


def main() -> None:
    """Measure and print."""
    print_conditions()
    with tempfile.TemporaryDirectory(prefix="exporter-bench-") as folder:
        binary = compile_calls(Path(folder))
        runs = [_run(binary) for _ in range(RUNS)]
    ways = list(runs[0])
    rows = [[title, *_least(runs, ways, place)] for place, title in COMPARED.items()]
    print_table(f"ns a call, least of {RUNS} runs of {ROUNDS} times {CALLS} calls", ["probed", *ways], rows)
    rows = [[title, *_least(runs, [LINKS, PERF], place)] for place, (title, _) in WORK.items()]
    print_table("ns a call of push %rbp, likewise", ["what the function does", LINKS, PERF], rows)
    if BPFTRACE in ways:
        _print_ratios(runs)
    else:
        print("\nbpftrace is not installed: nothing to compare with")


def _least(runs: Sequence[Run], ways: Sequence[str], place: str) -> list[str]:
    return [f"{min(run[way][place] for run in runs):.0f}" for way in ways]


def _print_ratios(runs: Sequence[Run]) -> None:
    ratios = {
        (way, place): [run[way][place] / run[BPFTRACE][place] for run in runs]
        for way in (LINKS, PERF)
        for place in COMPARED
    }
    rows = [
        [title, *(f"{of(ratios[way, place]):.2f}" for way in (LINKS, PERF) for of in (min, median, max))]
        for place, title in COMPARED.items()
    ]
    columns = [f"{way}, {what}" for way in (LINKS, PERF) for what in ("min", "median", "max")]
    print_table("times what a call costs by bpftrace", ["probed", *columns], rows)
    print()
    for way in (LINKS, PERF):
        place = max(COMPARED, key=lambda place: median(ratios[way, place]))
        most = median(ratios[way, place])
        verdict = "met" if most <= GOAL_RATIO else "missed"
        print(f"{way}: {most:.2f} times bpftrace's cost at most ({COMPARED[place]}), goal {GOAL_RATIO}: {verdict}")


def _run(binary: Path) -> Run:
    """Return what calls cost in new processes; fails where calls were not counted right."""
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(copies(binary, (LINKS, PERF, BPFTRACE)))
        unprobed = stack.enter_context(calls(binary))
        ways = [stack.enter_context(_ours(way, files[way])) for way in (LINKS, PERF)]
        if shutil.which("bpftrace"):
            ways.append(stack.enter_context(_bpftrace(files[BPFTRACE])))
        programs = {UNPROBED: unprobed, **{way.name: way.program for way in ways}}
        run: Run = {way: dict.fromkeys((*COMPARED, *WORK), float("inf")) for way in programs}
        for _ in range(ROUNDS):
            for place in (*COMPARED, *WORK):
                for name, program in programs.items():
                    run[name][place] = min(run[name][place], program.nanoseconds(place, CALLS))
        for way in ways:
            _check(way)
    return run


def _check(way: Way) -> None:
    counts, timed = way.counted()
    expected = {key: ROUNDS * CALLS * (2 if place in _PAIRS else 1) for place, key in _KEYS.items()}
    expected[USDT_ARGUMENT] = ROUNDS * CALLS
    found = {key: count for key, count in counts.items() if key}
    assert (found, timed) == (expected, ROUNDS * CALLS), f"{way.name} counted {found} and {timed}, expected {expected}"


@contextlib.contextmanager
def _ours(way: str, binary: Path) -> Iterator[Way]:
    bodies = {place: f"count({key}); return 0;" for place, key in _KEYS.items()}
    bodies |= {place: body for place, (_, body) in WORK.items()}
    config = _CONFIG.format(
        binary=binary,
        entries=", ".join(f"{place}: on_{place}" for place in bodies),
        returns=", ".join(f"{place}: on_{place}" for place in _PAIRS),
    )
    functions = [f"      int on_{place}(struct pt_regs *ctx) {{ {body} }}\n" for place, body in bodies.items()]
    with calls(binary) as program, exporter(config + "".join(functions), environment=ENVIRONMENTS[way]) as running:
        running.wait_attached("hits", program.pid)

        def counted() -> tuple[dict[int, int], int]:
            values = running.values("hits_total")
            timed = running.value("hit_seconds_count", pid=program.pid)
            return {int(dict(labels)["key"]): int(value) for labels, value in values.items()}, int(timed or 0)

        yield Way(way, program, counted)


@contextlib.contextmanager
def _bpftrace(binary: Path) -> Iterator[Way]:
    clauses = [f"usdt:{binary}:bench:hit {{ @[arg0] = count(); }}"]
    clauses += [f"uprobe:{binary}:{place} {{ @[{key}] = count(); }}" for place, key in _KEYS.items()]
    clauses += [f"uretprobe:{binary}:{place} {{ @[{_KEYS[place]}] = count(); }}" for place in _PAIRS]
    clauses.append(f"uprobe:{binary}:push_timed {{ @entered[tid] = nsecs; }}")
    latency = "@latency = hist(nsecs - @entered[tid]); delete(@entered[tid]);"
    clauses.append(f"uretprobe:{binary}:push_timed /@entered[tid]/ {{ {latency} }}")
    with calls(binary) as program:
        command = ["bpftrace", "-p", str(program.pid), "-e", " ".join(clauses)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                wait_bpftrace(process.pid)

                def counted() -> tuple[dict[int, int], int]:
                    process.terminate()
                    written, _ = process.communicate()
                    counts = re.findall(r"^@\[(\d+)\]: (\d+)$", written, re.MULTILINE)
                    timed = re.findall(r"^\[.*[)\]] +(\d+) \|", written, re.MULTILINE)
                    return {int(key): int(count) for key, count in counts}, sum(map(int, timed))

                yield Way(BPFTRACE, program, counted)
            finally:
                process.kill()


def wait_bpftrace(pid: int) -> None:
    """Wait until bpftrace has attached all, and waits for events itself."""
    until(lambda: Path(f"/proc/{pid}/wchan").read_text() in ("ep_poll", "do_epoll_wait"), "bpftrace attached")


if __name__ == "__main__":
    main()
