"""What does a scrape of a hundred thousand series cost, and how much memory?

300 files as workers write them, served over HTTP by gunicorn exactly as the exporter starts it. Beside it are, over the
same files and with the same gunicorn settings, prometheus_client's MultiProcessCollector and generate_latest, and, if
installed, Debian's prometheus-pushgateway, which is client_golang serving the same series. What counts is the CPU time
of the process that answers. All give the same set of (name, labels, value), or this fails.
"""

import contextlib
import gzip
import http.client
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.metric_files import Files, metric_files
from benchmarks.readings import exact_cpu_seconds, memory, peak_kilobytes, print_conditions, print_table, spread
from benchmarks.servers import Server, our_server, pushgateway, stock_server
from prometheus_client.parser import text_string_to_metric_families

FILES = 300
RUNS, SLOW_RUNS, STARTS = 11, 3, 3
AT_ONCE = 8

_PUSHED = {("job", "bench"), ("instance", "")}

Samples = set[tuple[str, frozenset[tuple[str, str | float]], float]]


@dataclass(frozen=True, slots=True)
class Starts:
    """A server's starts: for each the seconds to its first answer, and the CPU time that it has used until then."""

    name: str
    wall: list[float]
    cpu: list[float]


def main() -> None:
    """Measure and print."""
    print_conditions()
    for kind, least_ratio, most_changed in (("counter", 25, 1.5), ("histogram", 40, 1.0)):
        with metric_files(kind, FILES) as (folder, files):
            _measure(kind, folder, files, least_ratio, most_changed)


def _measure(kind: str, folder: Path, files: Files, least_ratio: float, most_changed: float) -> None:
    starts = [_starts(our_server, folder), _starts(stock_server, folder)]
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(our_server(folder))
        stock = stack.enter_context(stock_server(folder))
        gateway = stack.enter_context(pushgateway())
        servers = [ours, stock, *([gateway] if gateway else [])]
        if gateway:
            _push(gateway, ours.scrape())
        _assert_equal(servers)
        changed = _times([ours, stock], files.change)
        unchanged = _times([ours, stock], lambda: None)
        if gateway:
            _push(gateway, ours.scrape())
            unchanged |= _times([gateway], lambda: None)
        zipped = [ours.cpu_of_scrape(zipped=True) for _ in range(RUNS)]
        _at_once(ours, files)
        rows = [
            _row("ours, all values changed", files, changed["ours"], stock=changed),
            _row("prometheus_client, all values changed", files, changed["stock"], stock=changed),
            _row("ours, nothing changed", files, unchanged["ours"], stock=unchanged),
            _row("prometheus_client, nothing changed", files, unchanged["stock"], stock=unchanged),
            *([_row("pushgateway", files, unchanged["pushgateway"], stock=unchanged)] if gateway else []),
            _row("ours, nothing changed, gzip", files, zipped, stock=unchanged),
        ]
        columns = ["CPU of the server", "ms, min", "median", "µs a sample, min", "median", "times less than stock"]
        print_table(f"{files.samples} samples of {kind}s in {FILES} files", columns, rows)
        rows = [[start.name, *spread(start.wall, 2), *spread(start.cpu, 2)] for start in starts]
        columns = ["seconds", "wall, min", "median", "max", "CPU, min", "median", "max"]
        print_table(f"From the start of the server to its first answer, {STARTS} times", columns, rows)
        rows = [_memory_row(server) for server in servers]
        print_table(f"Memory, ours after {AT_ONCE} scrapes at once", ["MB", "resident", "its own", "peak"], rows)
        compressing = (min(zipped) - min(unchanged["ours"])) / files.samples * 1e6
        print()
        _judge("times less CPU than stock", min(changed["stock"]) / min(changed["ours"]), at_least=least_ratio)
        _judge("µs a sample, changed", min(changed["ours"]) / files.samples * 1e6, at_most=most_changed)
        _judge("µs a sample, unchanged", min(unchanged["ours"]) / files.samples * 1e6, at_most=0.2)
        _judge("s from its start to the first answer", min(starts[0].wall), at_most=2)
        _judge("µs a sample for gzip", compressing, at_most=0.9)
        _judge("MB at most", peak_kilobytes(ours.pid) / 1024, at_most=120)


def _starts(run: Callable[[Path], AbstractContextManager[Server]], folder: Path) -> Starts:
    """Start a server several times and scrape it at once: the request waits until it can be answered."""
    wall, cpu = [], []
    for _ in range(STARTS):
        begin = time.monotonic()
        with run(folder) as server:
            server.scrape()
            wall.append(time.monotonic() - begin)
            cpu.append(exact_cpu_seconds(server.pid))
    return Starts(server.name, wall, cpu)


def _times(servers: list[Server], change: Callable[[], None]) -> dict[str, list[float]]:
    """Return the CPU seconds of several scrapes of each, in turn, each after a change."""
    times: dict[str, list[float]] = {server.name: [] for server in servers}
    for run in range(RUNS):
        for server in servers:
            if server.name != "stock" or run < SLOW_RUNS:
                change()
                times[server.name].append(server.cpu_of_scrape())
    return times


def _at_once(server: Server, files: Files) -> None:
    for zipped in (False, True):
        files.change()
        threads = [threading.Thread(target=server.scrape, kwargs={"zipped": zipped}) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _row(name: str, files: Files, seconds: list[float], *, stock: dict[str, list[float]]) -> list[str]:
    least, middle = min(seconds), median(seconds)
    numbers = [f"{1e3 * each:.1f}" for each in (least, middle)]
    numbers += [f"{1e6 * each / files.samples:.3f}" for each in (least, middle)]
    return [name, *numbers, f"{min(stock['stock']) / least:.1f}"]


def _memory_row(server: Server) -> list[str]:
    now = memory(server.pid)
    return [server.name, *(f"{kilobytes / 1024:.0f}" for kilobytes in (now.rss, now.uss, peak_kilobytes(server.pid)))]


def _judge(what: str, number: float, *, at_least: float = 0.0, at_most: float = float("inf")) -> None:
    is_met = at_least <= number <= at_most
    goal = f"at least {at_least:g}" if at_least else f"at most {at_most:g}"
    print(f"{number:8.2f} {what}, goal {goal}: {'met' if is_met else 'missed'}")


def _assert_equal(servers: list[Server]) -> None:
    found = {server.name: _samples(server.scrape()) for server in servers}
    zipped = _samples(gzip.decompress(servers[0].scrape(zipped=True)))
    assert all(samples == found["stock"] for samples in (*found.values(), zipped))


def _samples(text: bytes) -> Samples:
    """Return what is of the files: neither the server's own metrics nor the labels of a push."""
    return {
        (sample.name, frozenset(map(_comparable, sample.labels.items() - _PUSHED)), sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name.startswith("bench_")
    }


def _comparable(label: tuple[str, str]) -> tuple[str, str | float]:
    """Return the label; bounds as numbers: client_golang writes 1 where the library writes 1.0."""
    return (label[0], float(label[1])) if label[0] == "le" else label


def _push(gateway: Server, text: bytes) -> None:
    """Replace what the gateway serves by what is of the files."""
    lines = [line for line in text.splitlines(keepends=True) if b"bench_" in line]
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=120)
    with contextlib.closing(connection):
        connection.request("PUT", "/metrics/job/bench", body=b"".join(lines))
        response = connection.getresponse()
        assert response.status == 200, response.read()


if __name__ == "__main__":
    main()
