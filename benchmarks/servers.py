"""Who serves metric files over HTTP: the exporter's web, and what one would use instead of it."""

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet import children
from benchmarks.readings import exact_cpu_seconds

from tests.product.exporter import free_port, until

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

application.read_ahead = lambda: None  # which those settings ask for
"""


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


@contextlib.contextmanager
def our_server(folder: Path) -> Iterator[Server]:
    """Run the exporter's web alone, as the supervisor starts it."""
    environment = {"USERSPACE_EXPORTER_WEB_STATE_DIR": str(folder), "USERSPACE_EXPORTER_WEB_METRICS_PATH": "/metrics"}
    with _gunicorn("ours", environment, "ebpf_userspace_exporter.web.app:application") as server:
        yield server


@contextlib.contextmanager
def stock_server(folder: Path) -> Iterator[Server]:
    """Run prometheus_client's MultiProcessCollector and generate_latest with the same gunicorn settings."""
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
def pushgateway() -> Iterator[Server | None]:
    """Run Debian's prometheus-pushgateway, client_golang's server, if it is installed."""
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
