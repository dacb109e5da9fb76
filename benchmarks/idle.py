"""What does the exporter cost while nobody scrapes?

51 targets are attached and left alone; so is the exporter. Its scan of the process table costs the more, the more
processes the machine has, which is why their number is printed. Workers sleep, but for one question a minute, by which
the supervisor finds those that hang.
"""

import os
import time
from dataclasses import dataclass
from statistics import median

from benchmarks.fleet import Fleet, attached_exporter, gunicorn_fleet
from benchmarks.readings import cpu_seconds, print_conditions, print_table, spread, voluntary_switches

from tests.product.exporter import Exporter

WORKERS = 50
RUNS = 3
SETTLE_SECONDS = 3.0  # the web starts, children that attached are reaped
SECONDS = 30.0
GOAL_PERCENT = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """One stretch of time; CPU in per cent of a core, switches of all workers together, processes of the machine."""

    supervisor: float
    workers: float
    wakeups: int
    processes: int


def main() -> None:
    """Measure and print."""
    print_conditions()
    with gunicorn_fleet(WORKERS) as fleet:
        runs = _measure(fleet)
    processes = max(run.processes for run in runs)
    total = [run.supervisor + run.workers for run in runs]
    rows = [
        ["supervisor, % of a core", *spread([run.supervisor for run in runs], 2)],
        [f"{len(fleet.pids)} workers together, % of a core", *spread([run.workers for run in runs], 2)],
        ["all, % of a core", *spread(total, 2)],
        ["voluntary context switches of all workers", *spread([run.wakeups for run in runs], 0)],
    ]
    title = f"Idle for {SECONDS:.0f} s, {RUNS} times; {processes} processes on the machine"
    print_table(title, ["", "min", "median", "max"], rows)
    is_met = median(total) < GOAL_PERCENT
    print(f"\n{median(total):.2f} % of a core, goal {GOAL_PERCENT:.0f} %: {'met' if is_met else 'missed'}")


def _measure(fleet: Fleet) -> list[Run]:
    with attached_exporter(fleet) as running:
        time.sleep(SETTLE_SECONDS)
        return [_stretch(running) for _ in range(RUNS)]


def _stretch(running: Exporter) -> Run:
    workers = running.children("exporter-worker")
    supervisor, spent = cpu_seconds(running.process.pid), sum(map(cpu_seconds, workers))
    wakeups = sum(map(voluntary_switches, workers))
    begin = time.monotonic()
    time.sleep(SECONDS)
    supervisor = cpu_seconds(running.process.pid) - supervisor
    spent = sum(map(cpu_seconds, workers)) - spent
    wakeups = sum(map(voluntary_switches, workers)) - wakeups
    processes = sum(name.isdigit() for name in os.listdir("/proc"))  # noqa: PTH208 - /proc has no tree to walk
    percent = 100 / (time.monotonic() - begin)
    return Run(percent * supervisor, percent * spent, wakeups, processes)


if __name__ == "__main__":
    main()
