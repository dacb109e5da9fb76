"""How long until every process of a known program is attached, and how often is the program compiled for that?

gunicorn runs with 50 workers; the exporter is started and asked nothing until all are attached: times are from its
log. The peer is one process of bcc's own per target, which is what attaching without sharing a build takes.
"""

import time
from dataclasses import dataclass
from statistics import median

from benchmarks.bcc_peer import run_peer
from benchmarks.fleet import Fleet, gunicorn_fleet, log_lines, started_exporter, wait_attached
from benchmarks.readings import cpu_seconds, print_conditions, print_table, reaped_cpu_seconds, spread

WORKERS = 50
RUNS = 5
PEERS = 3
GOAL_SECONDS = 3.0


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
    with gunicorn_fleet(WORKERS) as fleet:
        peers = [run_peer(pid, fleet.config) for pid in fleet.pids[:PEERS]]
        runs = [_measure(fleet) for _ in range(RUNS)]
    targets = len(fleet.pids)
    from_exec = [run.from_exec for run in runs]
    cpu = [run.cpu / targets for run in runs]
    peer_cpu = [peer.cpu_seconds for peer in peers]
    builds = {run.builds for run in runs}
    rows = [
        ["exec to all attached, wall", *spread(from_exec, 3)],
        ["built to all attached, wall", *spread([run.from_build for run in runs], 3)],
        ["one target's share, CPU", *spread(cpu, 4)],
        ["peer: one bcc process for one target, CPU", *spread(peer_cpu, 3)],
        ["peer: one bcc process for one target, wall", *spread([peer.wall_seconds for peer in peers], 3)],
    ]
    title = f"Attaching {targets} processes, {RUNS} runs; {PEERS} processes by bcc alone, one after another"
    print_table(title, ["seconds", "min", "median", "max"], rows)
    is_met = median(from_exec) < GOAL_SECONDS and builds == {1}
    print(f"\nbuilds in the log of each run: {', '.join(map(str, sorted(builds)))}, goal 1;")
    print(f"all attached in {median(from_exec):.2f} s, goal {GOAL_SECONDS:.0f} s: {'met' if is_met else 'missed'};")
    print(f"bcc alone takes {median(peer_cpu) / median(cpu):.0f} times the CPU per process")


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
