"""Bytes and handshakes of an nginx and of a Python that talk TLS, beside what each says of itself."""

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.examples.agreement import promtool_says
from tests.product.compiled import Target, run_target
from tests.product.exporter import EXAMPLES, Exporter, Samples, exporter, free_port, series, until
from tests.product.faults import ATTACH_IDS, ATTACH_MODES, fresh

pytestmark = pytest.mark.bpf

FOLDER = EXAMPLES / "tls"
PAGE_BYTES = 300_000  # several records, each up to 16 KiB
FETCHES = 20


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx, the pid of its one worker, and what it has written."""

    folder: Path
    port: int
    worker: int

    def requests(self) -> list[tuple[int, int]]:
        """Return the bytes received and sent of each request that is through."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return [(int(received), int(sent)) for received, sent in map(str.split, lines)]


@dataclass(frozen=True, slots=True)
class Watched:
    """What was scraped when all was fetched; before, nothing was."""

    running: Exporter
    nginx: Nginx
    client: int
    said: dict[str, int]
    samples: Samples

    def of_nginx(self, name: str, **labels: str) -> float | None:
        return self.samples.get(series(name, pid=self.nginx.worker, program="nginx", **labels))

    def of_client(self, name: str, **labels: str) -> float | None:
        return self.samples.get(series(name, pid=self.client, program="python3", **labels))


@pytest.fixture(scope="module", params=ATTACH_MODES, ids=ATTACH_IDS)
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with (
        nginx() as server,
        client(server) as fetching,
        exporter(FOLDER / "config.yaml", environment=request.param) as running,
    ):
        running.wait_attached("tls", server.worker, fetching.pid)
        for _ in range(FETCHES):
            said = json.loads(fetching.tell("/page"))
        fail_to_shake_hands(server)
        until(lambda: len(server.requests()) == FETCHES, "nginx has logged all requests")
        yield Watched(running, server, fetching.pid, said, fresh(running))


def test_bytes_of_nginx_are_those_of_its_own_log(watched: Watched) -> None:
    requests = watched.nginx.requests()

    assert watched.of_nginx("tls_bytes_total", direction="received") == sum(received for received, _ in requests)
    assert watched.of_nginx("tls_bytes_total", direction="sent") == sum(sent for _, sent in requests)


def test_bytes_of_python_are_those_that_it_counted(watched: Watched) -> None:
    assert watched.said["received"] > FETCHES * PAGE_BYTES
    assert watched.of_client("tls_bytes_total", direction="received") == watched.said["received"]
    assert watched.of_client("tls_bytes_total", direction="sent") == watched.said["sent"]


def test_what_one_side_sends_the_other_receives(watched: Watched) -> None:
    for here, there in (("sent", "received"), ("received", "sent")):
        assert watched.of_nginx("tls_bytes_total", direction=here) == watched.of_client(
            "tls_bytes_total", direction=there
        )


def test_handshakes_are_those_that_openssl_counted_and_none_that_failed(watched: Watched) -> None:
    assert watched.said["handshakes"] == FETCHES
    assert watched.of_client("tls_handshake_seconds_count") == FETCHES
    assert watched.of_nginx("tls_handshake_seconds_count") == FETCHES


def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    assert promtool_says(watched.running) == []


@contextlib.contextmanager
def nginx() -> Iterator[Nginx]:
    """Run Debian's nginx with the example's configuration on another port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="exporter-tls-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the worker is another user
        text = (FOLDER / "nginx.conf").read_text()
        assert "listen 127.0.0.1:8443 ssl;" in text
        (folder / "nginx.conf").write_text(text.replace(":8443", f":{port}"))
        (folder / "files").mkdir()
        (folder / "files/page").write_bytes(b"x" * PAGE_BYTES)
        make_certificate(folder)
        command = ["/usr/sbin/nginx", "-p", folder, "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"]
        process = subprocess.Popen([str(part) for part in command])
        try:
            yield Nginx(folder, port, until(lambda: worker_of(process, folder, port), "nginx listens"))
        finally:
            process.terminate()
            process.wait(20)


def make_certificate(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run(
        [*command, "-keyout", folder / "key.pem", "-out", folder / "certificate.pem"], check=True, capture_output=True
    )


def worker_of(process: "subprocess.Popen[bytes]", folder: Path, port: int) -> int | None:
    """Return the pid of nginx's worker once it has one and takes connections."""
    assert process.poll() is None, (folder / "error.log").read_text()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(children[0]) if children else None
    return None


@contextlib.contextmanager
def client(server: Nginx) -> Iterator[Target]:
    """Run the example's client, which fetches when told to."""
    with tempfile.TemporaryDirectory() as folder:
        script = shutil.copy(FOLDER / "client.py", folder)
        with run_target("/usr/bin/python3", script, "127.0.0.1", str(server.port)) as target:
            until(lambda: "libssl" in Path(f"/proc/{target.pid}/maps").read_text(), "Python has loaded libssl")
            yield target


def fail_to_shake_hands(server: Nginx) -> None:
    """Begin a handshake with what is none; nginx hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
        plain.sendall(b"\x16\x03\x01\x00\x05hello")
        while plain.recv(4096):
            pass
