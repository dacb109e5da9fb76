"""gunicorn as the supervisor starts it: in `/`, with an inherited socket and two environment variables."""

import gzip
import http.client
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ebpf_userspace_exporter.web import gunicorn_settings
from tests.web.conftest import StartSupervisor, healthy_answer, write_metric_file

GC = ("userspace_exporter_gc", "userspace_exporter_gc_total")
DEADLINE_SECONDS = 30.0


@dataclass
class Server:
    """A running gunicorn; `log` is where its stderr goes."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def request(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def worker_pid(self) -> int:
        """Return the only child's pid; answers have been given, so it is there."""
        self.request("/-/healthy")
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        (pid,) = children.split()
        return int(pid)


@pytest.fixture
def server(state_directory: Path, tmp_path: Path) -> Iterator[Server]:
    write_metric_file(state_directory / "counter_gc-1_7.db", {(*GC, (("pid", "7"),)): 3.0})
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as stderr:
        fd = listener.fileno()
        settings = f"python:{gunicorn_settings.__name__}"
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", settings, "--bind", f"fd://{fd}"],
            cwd="/",
            env={
                "USERSPACE_EXPORTER_WEB_STATE_DIR": str(state_directory),
                "USERSPACE_EXPORTER_WEB_METRICS_PATH": "/metrics",
            },
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
        port = listener.getsockname()[1]
    try:
        # The socket listened before gunicorn started: requests wait in its backlog.
        yield Server(process, port, log)
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_SECONDS)
        finally:
            process.kill()
            process.wait()


def value_of(body: bytes, name: str) -> float:
    (line,) = [line for line in body.decode().splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return float(line.rpartition(" ")[2])


def assert_ends_within(pid: int, seconds: float, kill: int) -> None:
    """Kill process `kill` and wait until `pid` is gone."""
    watched = os.pidfd_open(pid)
    try:
        os.kill(kill, signal.SIGKILL)
        readable, _, _ = select.select([watched], [], [], seconds)
        assert readable, f"process {pid} outlived its master"
    finally:
        os.close(watched)


def test_scrape_is_answered_as_asked_for(server: Server, start_supervisor: StartSupervisor) -> None:
    start_supervisor(healthy_answer)

    text, text_body = server.request("/metrics")
    openmetrics, openmetrics_body = server.request("/metrics", headers={"Accept": "application/openmetrics-text"})
    packed, packed_body = server.request("/metrics", headers={"Accept-Encoding": "gzip"})
    head, head_body = server.request("/metrics", method="HEAD")
    named, named_body = server.request("/metrics?name[]=userspace_exporter_gc_total")

    assert {response.status for response in (text, openmetrics, packed, head, named)} == {200}
    assert text.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert text.headers["Server"] == "gunicorn"
    assert value_of(text_body, "userspace_exporter_gc_total") == 3
    assert value_of(text_body, "userspace_exporter_refresh_successful") == 1
    list(parse_text(text_body.decode()))
    list(parse_openmetrics(openmetrics_body.decode()))  # type: ignore[no-untyped-call]  # the library's
    assert packed.headers["Content-Encoding"] == "gzip"
    assert value_of(gzip.decompress(packed_body), "userspace_exporter_gc_total") == 3
    assert int(head.headers["Content-Length"]) > 0
    assert head_body == b""
    assert [line for line in named_body.splitlines() if not line.startswith(b"#")] == [
        b'userspace_exporter_gc_total{pid="7"} 3.0'
    ]
    assert server.log.read_bytes() == b""


def test_one_connection_serves_many_requests(server: Server, start_supervisor: StartSupervisor) -> None:
    start_supervisor(healthy_answer)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_SECONDS)
    try:
        connection.connect()
        first = connection.sock
        for method, path, body in (("HEAD", "/metrics", None), ("POST", "/metrics", b"x" * 10_000), ("GET", "/", None)):
            connection.request(method, path, body=body)
            response = connection.getresponse()
            response.read()
            assert response.status == (405 if method == "POST" else 200)
        assert connection.sock is first
    finally:
        connection.close()


def test_health_and_readiness_are_told(server: Server, start_supervisor: StartSupervisor) -> None:
    unready, reason = server.request("/-/ready")
    healthy, _ = server.request("/-/healthy")
    start_supervisor(healthy_answer)
    ready, _ = server.request("/-/ready")
    page, page_body = server.request("/")

    assert (unready.status, reason) == (503, b"not ready: the supervisor does not answer\n")
    assert healthy.status == ready.status == page.status == 200
    assert b'<a href="./metrics">/metrics</a>' in page_body


def test_silent_supervisor_costs_its_deadline_only(server: Server, start_supervisor: StartSupervisor) -> None:
    start_supervisor(lambda _: None)
    server.request("/-/healthy")
    started = time.monotonic()

    response, body = server.request("/metrics")

    assert time.monotonic() - started < 2.0
    assert response.status == 200
    assert value_of(body, "userspace_exporter_gc_total") == 3
    assert value_of(body, "userspace_exporter_refresh_successful") == 0


def test_files_of_noise_that_come_and_go_leave_the_others_intact(
    server: Server, state_directory: Path, start_supervisor: StartSupervisor
) -> None:
    start_supervisor(healthy_answer)
    noise = random.Random(3)
    good = (state_directory / "counter_gc-1_7.db").read_bytes()
    stop = threading.Event()

    def spoil() -> None:
        while not stop.is_set():
            path = state_directory / f"counter_gc-1_{noise.randrange(8, 16)}.db"
            path.write_bytes(noise.choice([b"", good[: noise.randrange(1, 100)], noise.randbytes(5_000)]))
            if noise.randrange(2):
                path.unlink()

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    try:
        bodies = []
        for _ in range(50):
            response, body = server.request("/metrics")
            assert response.status == 200
            bodies.append(body)
    finally:
        stop.set()
        spoiler.join()
    assert {value_of(body, "userspace_exporter_gc_total") for body in bodies} == {3.0}
    assert value_of(bodies[-1], "userspace_exporter_unreadable_files_total") > 0
    assert b"Traceback" not in server.log.read_bytes()
    assert b"[WARNING] metric file 'counter_gc-1_" in server.log.read_bytes()


def test_concurrent_scrapes_are_all_answered(server: Server, start_supervisor: StartSupervisor) -> None:
    start_supervisor(healthy_answer)
    statuses: list[int] = []
    scrapers = [
        threading.Thread(target=lambda: statuses.extend(server.request("/metrics")[0].status for _ in range(5)))
        for _ in range(12)
    ]
    for scraper in scrapers:
        scraper.start()
    for scraper in scrapers:
        scraper.join()

    _, body = server.request("/metrics")
    assert statuses == [200] * 60
    assert value_of(body, "userspace_exporter_scrape_seconds_count") == 60


def test_worker_dies_with_its_master_while_a_request_is_in_flight(
    server: Server, start_supervisor: StartSupervisor
) -> None:
    asked = threading.Event()

    def never(_request: str) -> None:
        asked.set()

    start_supervisor(never)
    worker = server.worker_pid()
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_SECONDS) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asked.wait(DEADLINE_SECONDS)

        assert_ends_within(worker, 2.0, kill=server.process.pid)


def test_killed_worker_is_replaced(server: Server) -> None:
    worker = server.worker_pid()

    assert_ends_within(worker, DEADLINE_SECONDS, kill=worker)

    assert server.request("/metrics")[0].status == 200
    assert server.worker_pid() != worker


def test_files_are_read_before_anybody_asks(server: Server, state_directory: Path) -> None:
    worker = server.worker_pid()
    (state_directory / "counter_bad-1_8.db").mkdir()

    assert_ends_within(worker, DEADLINE_SECONDS, kill=worker)

    deadline = time.monotonic() + DEADLINE_SECONDS
    while b"metric file 'counter_bad-1_8.db' is left out" not in server.log.read_bytes():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.01)


def test_worker_can_gain_no_privileges(server: Server) -> None:
    assert "NoNewPrivs:\t1" in Path(f"/proc/{server.worker_pid()}/status").read_text()


def test_scrapes_leave_no_descriptor_open(server: Server, state_directory: Path) -> None:
    (state_directory / "counter_bad-1_8.db").mkdir()
    worker = server.worker_pid()
    for _ in range(3):
        server.request("/metrics")

    links = []
    for link in Path(f"/proc/{worker}/fd").iterdir():
        try:
            links.append(str(link.readlink()))
        except FileNotFoundError:
            continue  # the last request's connection, just closed

    assert links
    assert not [link for link in links if str(state_directory) in link]


def test_client_that_stalls_in_its_request_is_let_go(server: Server) -> None:
    server.request("/-/healthy")
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_SECONDS) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHo")

        assert client.recv(1024) == b""
    assert server.log.read_bytes() == b""


@pytest.mark.parametrize("idle_connections", [0, 3])
def test_term_ends_it_in_time_with_connections_open(server: Server, idle_connections: int) -> None:
    connections = [
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_SECONDS) for _ in range(idle_connections)
    ]
    try:
        server.request("/-/healthy")
        for connection in connections:
            connection.request("GET", "/-/healthy")
            connection.getresponse().read()

        server.process.terminate()

        assert server.process.wait(4.5) == 0
    finally:
        for connection in connections:
            connection.close()


def test_settings_are_all_known_to_gunicorn() -> None:
    from gunicorn.config import Config

    known = set(Config().settings)
    ours = {name for name in vars(gunicorn_settings) if name.islower() and not name.startswith("_")}

    assert ours - known == {"contextlib", "ctypes", "logging", "os", "signal", "socket", "struct", "threading"}
