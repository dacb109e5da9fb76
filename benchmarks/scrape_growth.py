"""How do the time of a scrape and the memory of the server grow with the number of series?

Files of 330 counters each, over HTTP: the exporter's web, and prometheus_client's MultiProcessCollector with the same
gunicorn settings. All values change before each scrape. docs/scrapes.svg is drawn from this.
"""

import time
from dataclasses import dataclass

from benchmarks.metric_files import Files, metric_files
from benchmarks.readings import exact_cpu_seconds, memory, peak_kilobytes, print_conditions, print_table
from benchmarks.servers import Server, our_server, stock_server

SIZES = (10, 30, 100, 300, 600)  # files
RUNS, SLOW_RUNS = 7, 2


@dataclass(frozen=True, slots=True)
class Scrapes:
    """What one server took: the least seconds; its own memory after the scrapes, and most that was resident, in kB."""

    wall: float
    cpu: float
    uss: int
    peak: int


def main() -> None:
    """Measure and print."""
    print_conditions()
    rows = []
    for size in SIZES:
        with metric_files("counter", size) as (folder, files):
            with our_server(folder) as server:
                ours = _scrapes(server, files, RUNS)
            with stock_server(folder) as server:
                stock = _scrapes(server, files, SLOW_RUNS)
        rows.append([str(files.samples), *_cells(ours), *_cells(stock), f"{stock.cpu / ours.cpu:.0f}"])
    columns = ["series", *(f"{name}: {what}" for name in ("ours", "stock") for what in ("ms", "CPU ms", "MB", "peak"))]
    title = f"A scrape, least of {RUNS} (ours) and {SLOW_RUNS} (stock); the server's own memory after it, resident peak"
    print_table(title, [*columns, "times less CPU"], rows)


def _scrapes(server: Server, files: Files, runs: int) -> Scrapes:
    server.scrape()  # the first decodes the keys
    wall, cpu = [], []
    for _ in range(runs):
        files.change()
        begin, spent = time.monotonic(), exact_cpu_seconds(server.pid)
        server.scrape()
        wall.append(time.monotonic() - begin)
        cpu.append(exact_cpu_seconds(server.pid) - spent)
    return Scrapes(min(wall), min(cpu), memory(server.pid).uss, peak_kilobytes(server.pid))


def _cells(scrapes: Scrapes) -> list[str]:
    numbers = (1000 * scrapes.wall, 1000 * scrapes.cpu, scrapes.uss / 1024, scrapes.peak / 1024)
    return [f"{number:.0f}" for number in numbers]


if __name__ == "__main__":
    main()
