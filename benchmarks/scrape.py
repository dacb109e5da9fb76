"""What does a scrape of a hundred thousand series cost, and how much memory?

300 files as workers write them, served over HTTP by gunicorn exactly as the exporter starts it. Beside it are, over the
same files and with the same gunicorn settings, prometheus_client's MultiProcessCollector and generate_latest, and, if
installed, Debian's prometheus-pushgateway, which is client_golang serving the same series. What counts is the CPU time
of the process that answers. All give the same set of (name, labels, value), or this fails.
"""

import contextlib
import gzip
import http.client
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.fleet import children
from benchmarks.readings import exact_cpu_seconds, memory, peak_kilobytes, print_conditions, print_table
from prometheus_client.parser import text_string_to_metric_families

from ebpf_userspace_exporter.worker.metric_file import MetricFile, Place, metric_key
from tests.product.exporter import free_port, until

FILES = 300
METRICS, LABEL_SETS = 10, 33  # counters a file
HISTOGRAMS, BUCKETS = 5, 64  # a file; each with its sum and its count
RUNS, SLOW_RUNS = 11, 3
AT_ONCE = 8

_GUNICORN = ["-m", "gunicorn", "--config=python:ebpf_userspace_exporter.web.gunicorn_settings"]
_STOCK_APP = """
import os
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

def application(environ, start_response):
    registry = CollectorRegistry()
    MultiProcessCollector(registry, os.environ["PROMETHEUS_MULTIPROC_DIR"])
    body = generate_latest(registry)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""

_PUSHED = {("job", "bench"), ("instance", "")}

Samples = set[tuple[str, frozenset[tuple[str, str | float]], float]]


@dataclass(frozen=True, slots=True)
class Server:
    """Who answers on a port, and the process whose time counts."""

    name: str
    port: int
    pid: int

    def scrape(self, *, zipped: bool = False) -> bytes:
        """Return the metrics; only whoever asks for gzip gets it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip" if zipped else "identity"})
            response = connection.getresponse()
            assert response.status == 200
            return response.read()

    def cpu_of_scrape(self, *, zipped: bool = False) -> float:
        """Return the seconds of CPU time that one scrape takes."""
        before = exact_cpu_seconds(self.pid)
        self.scrape(zipped=zipped)
        return exact_cpu_seconds(self.pid) - before


class Files:
    """Metric files of one kind, written in place as workers do."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.samples = FILES * (METRICS * LABEL_SETS if kind == "counter" else HISTOGRAMS * (BUCKETS + 2))
        self._random = random.Random(1)  # noqa: S311 - the same values in each run
        self._slots: list[tuple[MetricFile, list[Place], list[float]]] = []
        for pid in range(4000, 4000 + FILES):
            file = MetricFile.create(folder / f"{kind}_bench-12345678_{pid}.db", group=None)
            keys, values = (self._counters if kind == "counter" else self._histograms)(pid)
            self._slots.append((file, file.slots(keys), values))
        self.change()

    def change(self) -> None:
        """Let every value grow."""
        for file, slots, values in self._slots:
            values[:] = [value + self._random.randrange(1, 4) for value in values]
            file.store(slots, values, [0.0] * len(slots))

    def _counters(self, pid: int) -> tuple[list[str], list[float]]:
        keys = [
            metric_key(
                f"bench_{metric}", f"bench_{metric}_total", (("function", f"fn_{number}"), ("pid", str(pid))), "Help."
            )
            for metric in range(METRICS)
            for number in range(LABEL_SETS)
        ]
        return keys, [self._count() for _ in keys]

    def _histograms(self, pid: int) -> tuple[list[str], list[float]]:
        keys, values = [], []
        bounds = (*(str(2.0**power) for power in range(BUCKETS - 1)), "+Inf")
        for name in (f"bench_{number}" for number in range(HISTOGRAMS)):
            keys += [
                metric_key(name, f"{name}_bucket", (("function", "fn"), ("pid", str(pid)), ("le", le)), "Help.")
                for le in bounds
            ]
            keys.append(metric_key(name, f"{name}_sum", (("function", "fn"), ("pid", str(pid))), "Help."))
            middle, observations = self._random.uniform(8, 40), self._count()
            shares = [math.exp(-((place - middle) ** 2) / 18) for place in range(BUCKETS)]
            values += [float(int(observations * share / sum(shares))) for share in shares]
            values.append(observations * 1.5)
        return keys, values

    def _count(self) -> float:
        """Return a count, of each magnitude as many; one in seven is from a million on, which Go spells otherwise."""
        return float(int(10 ** self._random.uniform(0, 7)))

    def close(self) -> None:
        """Let go of the files, which stay."""
        for file, _, _ in self._slots:
            file.close()


def main() -> None:
    """Measure and print."""
    print_conditions()
    for kind, least_ratio, most_changed in (("counter", 25, 1.5), ("histogram", 40, 1.0)):
        with tempfile.TemporaryDirectory(prefix="exporter-bench-", dir="/dev/shm") as folder:
            files = Files(Path(folder), kind)
            try:
                _measure(kind, Path(folder), files, least_ratio, most_changed)
            finally:
                files.close()


def _measure(kind: str, folder: Path, files: Files, least_ratio: float, most_changed: float) -> None:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_ours(folder))
        stock = stack.enter_context(_stock(folder))
        gateway = stack.enter_context(_pushgateway())
        servers = [ours, stock, *([gateway] if gateway else [])]
        first = ours.cpu_of_scrape()
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
            _row("ours, first scrape", files, [first], stock=changed),
            _row("ours, all values changed", files, changed["ours"], stock=changed),
            _row("prometheus_client, all values changed", files, changed["stock"], stock=changed),
            _row("ours, nothing changed", files, unchanged["ours"], stock=unchanged),
            _row("prometheus_client, nothing changed", files, unchanged["stock"], stock=unchanged),
            *([_row("pushgateway", files, unchanged["pushgateway"], stock=unchanged)] if gateway else []),
            _row("ours, nothing changed, gzip", files, zipped, stock=unchanged),
        ]
        columns = ["CPU of the server", "ms, min", "median", "µs a sample, min", "median", "times less than stock"]
        print_table(f"{files.samples} samples of {kind}s in {FILES} files", columns, rows)
        rows = [_memory_row(server) for server in servers]
        print_table(f"Memory, ours after {AT_ONCE} scrapes at once", ["MB", "resident", "its own", "peak"], rows)
        compressing = (min(zipped) - min(unchanged["ours"])) / files.samples * 1e6
        print()
        _judge("times less CPU than stock", min(changed["stock"]) / min(changed["ours"]), at_least=least_ratio)
        _judge("µs a sample, changed", min(changed["ours"]) / files.samples * 1e6, at_most=most_changed)
        _judge("µs a sample, unchanged", min(unchanged["ours"]) / files.samples * 1e6, at_most=0.2)
        _judge("µs a sample for gzip", compressing, at_most=0.9)
        _judge("MB at most", peak_kilobytes(ours.pid) / 1024, at_most=120)


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


@contextlib.contextmanager
def _ours(folder: Path) -> Iterator[Server]:
    environment = {"USERSPACE_EXPORTER_WEB_STATE_DIR": str(folder), "USERSPACE_EXPORTER_WEB_METRICS_PATH": "/metrics"}
    with _gunicorn("ours", environment, "ebpf_userspace_exporter.web.app:application") as server:
        yield server


@contextlib.contextmanager
def _stock(folder: Path) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="exporter-bench-") as place:
        (Path(place) / "stock_app.py").write_text(_STOCK_APP)
        environment = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
        with _gunicorn("stock", environment, f"--pythonpath={place}", "stock_app:application") as server:
            yield server


@contextlib.contextmanager
def _gunicorn(name: str, environment: dict[str, str], *arguments: str) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bound = f"--bind=fd://{listener.fileno()}"
        command = [sys.executable, "-I", *_GUNICORN, bound, *arguments]
        fd, port = listener.fileno(), listener.getsockname()[1]
        process = subprocess.Popen(command, cwd="/", env=environment, pass_fds=[fd])
    with _ended(process):
        (worker,) = until(lambda: children(process.pid), "gunicorn's worker")
        yield Server(name, port, worker)


@contextlib.contextmanager
def _pushgateway() -> Iterator[Server | None]:
    if shutil.which("prometheus-pushgateway") is None:
        print("\nprometheus-pushgateway is not installed: nothing to compare with client_golang")
        yield None
        return
    port = free_port()
    arguments = [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    process = subprocess.Popen(["prometheus-pushgateway", *arguments], cwd="/", env={"PATH": os.environ["PATH"]})
    with _ended(process):
        until(lambda: _listens(port), "the pushgateway")
        yield Server("pushgateway", port, process.pid)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


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
