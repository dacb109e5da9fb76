"""How much memory does a worker take, and does it matter how many there are?

Each number is read after the exporter's first scrape. The peer is what users of bcc run instead: a process that has
compiled and attached the same program for one target.
"""

from benchmarks.bcc_peer import run_peer
from benchmarks.fleet import Fleet, attached_exporter, children, gunicorn_fleet
from benchmarks.readings import Memory, memory, print_conditions, print_table, spread

GOAL_KB = 2200
SIZES = (1, 5, 50)
RUNS = 3


def main() -> None:
    """Measure and print."""
    print_conditions()
    rows: list[list[str]] = []
    medians: list[float] = []
    for size in SIZES:
        with gunicorn_fleet(size) as fleet:
            if size == SIZES[0]:
                peer = run_peer(fleet.pids[0], fleet.config).memory
            runs = [_measure(fleet) for _ in range(RUNS)]
        for name in runs[0]:
            found = [each for run in runs for each in run[name]]
            uss, rss = [each.uss for each in found], [each.rss for each in found]
            rows.append([f"{name}, {size + 1} targets", str(len(found) // RUNS), *spread(uss, 0), *spread(rss, 0)])
            if name == "worker":
                medians.append(sorted(uss)[len(uss) // 2])
    rows.append(["peer: one bcc process, 1 target", "1", *spread([peer.uss], 0), *spread([peer.rss], 0)])
    columns = ["kB", "processes", "USS min", "median", "max", "RSS min", "median", "max"]
    print_table(f"Memory after the first scrape, {RUNS} runs", columns, rows)
    worst = max(medians)
    print(f"\nworker: {worst:.0f} kB USS, goal {GOAL_KB} kB: {'met' if worst < GOAL_KB else 'missed'};")
    print(f"bcc's process has {peer.uss / worst:.0f} times as much")


def _measure(fleet: Fleet) -> dict[str, list[Memory]]:
    """Return what each process of a new exporter has, by what it does."""
    with attached_exporter(fleet) as running:
        running.scrape()
        web = running.children("python")  # -m gunicorn
        return {
            "worker": [memory(pid) for pid in running.children("exporter-worker")],
            "fork server": [memory(pid) for pid in running.children("exporter-forks")],
            "supervisor": [memory(running.process.pid)],
            "web, master": [memory(pid) for pid in web],
            "web, worker": [memory(pid) for master in web for pid in children(master)],
        }


if __name__ == "__main__":
    main()
