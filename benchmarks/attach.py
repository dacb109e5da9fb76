"""How long until every process of a known program is attached, and how does that grow with their number?

gunicorn runs with so many processes; the exporter is started and asked nothing until all are attached: times are from
its log. The peer is one process of bcc's own per target, which is what attaching without sharing a build takes. They
run one after another and only a few, so for a number of targets the peer's time is that of one, so often.
"""

import time
from dataclasses import dataclass
from statistics import median

from benchmarks.bcc_peer import Peer, run_peer
from benchmarks.fleet import Fleet, gunicorn_fleet, log_lines, started_exporter, wait_attached
from benchmarks.readings import cpu_seconds, print_conditions, print_table, reaped_cpu_seconds, spread

SIZES = (10, 50, 100, 200)
RUNS = 3
PEERS = 5
GOAL_SECONDS = 3.0  # from the build, for the largest number


@dataclass(frozen=True, slots=True)
class Run:
    """One start of the exporter; seconds, `cpu` of the supervisor, its builder and its workers."""

    from_exec: float
    from_build: float
    cpu: float
    builds: int


def main() -> None:
    """Measure and print."""
    print_conditions()
    found: dict[int, list[Run]] = {}
    for size in SIZES:
        with gunicorn_fleet(size - 1) as fleet:  # and its master
            if size == SIZES[0]:
                peers = [run_peer(pid, fleet.config) for pid in fleet.pids[:PEERS]]
            found[size] = [_measure(fleet) for _ in range(RUNS)]
    title = f"Seconds until so many processes are attached, {RUNS} runs; bcc's are {PEERS} processes' median, times N"
    columns = ["targets", "built to all: min", "median", "max", "exec to all", "CPU", "bcc alone", "its CPU"]
    print_table(title, columns, [_row(size, runs, peers) for size, runs in found.items()])
    first, last = (median(run.cpu for run in found[size]) for size in (SIZES[0], SIZES[-1]))
    one_more = (last - first) / (SIZES[-1] - SIZES[0])
    builds = {run.builds for runs in found.values() for run in runs}
    seconds = median(run.from_build for run in found[SIZES[-1]])
    is_met = seconds < GOAL_SECONDS and builds == {1}
    print(f"\nbuilds in the log of each run: {', '.join(map(str, sorted(builds)))}, goal 1;")
    print(
        f"{SIZES[-1]} attached {seconds:.2f} s after the build, goal {GOAL_SECONDS:g} s:",
        "met;" if is_met else "missed;",
    )
    print(
        f"one target more costs {one_more * 1000:.1f} ms of CPU, by bcc alone {_cpu(peers) / one_more:.0f} times that"
    )


def _row(size: int, runs: list[Run], peers: list[Peer]) -> list[str]:
    own = [*spread([run.from_build for run in runs], 2)]
    own += [f"{median(numbers):.2f}" for numbers in ([run.from_exec for run in runs], [run.cpu for run in runs])]
    alone = (size * median(peer.wall_seconds for peer in peers), size * _cpu(peers))
    return [str(size), *own, *(f"{seconds:.1f}" for seconds in alone)]


def _cpu(peers: list[Peer]) -> float:
    return median(peer.cpu_seconds for peer in peers)


def _measure(fleet: Fleet) -> Run:
    begin = time.time()  # the log's clock
    with started_exporter(fleet) as running:
        wait_attached(running, fleet)
        cpu = reaped_cpu_seconds(running.process.pid)  # the builder's and the self-test's
        cpu += sum(map(cpu_seconds, [running.process.pid, *running.children("exporter-worker")]))
        lines = log_lines(running)
        enabled = running.total("enabled_programs")
    assert enabled == len(fleet.pids), f"{enabled} enabled"
    built = [line.seconds for line in lines if line.event == "built"]
    attached = max(line.seconds for line in lines if line.event == "attached")
    return Run(attached - begin, attached - built[0], cpu, len(built))


if __name__ == "__main__":
    main()
