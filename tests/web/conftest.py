"""Writes metric files as their writers do, and plays the supervisor's end of the control socket."""

import json
import os
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from ebpf_userspace_exporter.web.file_cache import MetricFile
from ebpf_userspace_exporter.web.layouts import Combine, Layout
from ebpf_userspace_exporter.web.metric_keys import Kind

Values = Mapping[tuple[str, str, tuple[tuple[str, str], ...]], float]


def write_metric_file(path: Path, values: Values, help_text: str = "Help.") -> None:
    """Write (family, sample, labels) -> value with prometheus_client's own writer."""
    path.unlink(missing_ok=True)
    file = MmapedDict(str(path))  # type: ignore[no-untyped-call]  # the library leaves it untyped
    for (family, sample, labels), value in values.items():
        key = json.dumps([family, sample, dict(labels), help_text])
        file.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]  # as above
    file.close()  # type: ignore[no-untyped-call]  # as above


def histogram_values(
    name: str, labels: tuple[tuple[str, str], ...], counts: Mapping[str, float], total: float
) -> Values:
    """Return a histogram's entries; `counts` is le -> own count, as in the files."""
    buckets = {(name, f"{name}_bucket", (*labels, ("le", le))): count for le, count in counts.items()}
    return {**buckets, (name, f"{name}_sum", labels): total}


def metric_file_bytes(values: Iterable[tuple[str, str, tuple[tuple[str, str], ...], str, float]]) -> bytes:
    """Return a file's bytes in use, for (family, sample, labels, help, value)."""
    body = bytearray()
    for family, sample, labels, help_text, value in values:
        key = json.dumps([family, sample, dict(labels), help_text]).encode()
        padded = key + b" " * (8 - (len(key) + 4) % 8)
        body += struct.pack(f"=i{len(padded)}sdd", len(key), padded, value, 0.0)
    return struct.pack("=ii", 8 + len(body), 0) + body


def metric_file(
    name: str, kind: Kind, values: Values, combine: Combine = Combine.SUM, help_text: str = "Help."
) -> MetricFile:
    """Return (family, sample, labels) -> value as a file that was read."""
    raw = metric_file_bytes((*key, help_text, value) for key, value in values.items())
    layout = Layout(kind, combine).extended(raw)
    return MetricFile(name, layout, tuple(metric.values(raw) for metric in layout.metrics), raw)


class FakeSupervisor:
    """Answers each connection's line with what `answer` returns; None leaves it waiting for ever."""

    def __init__(self, socket_path: Path, answer: Callable[[str], bytes | None]) -> None:
        self.requests: list[str] = []
        self._answer = answer
        self._kept: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(socket_path))
        self._listener.listen(16)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._stop_read, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._stop_read in ready:
                    return
                connection, _ = self._listener.accept()
                connection.settimeout(5)
                request = connection.makefile("rb").readline().decode()
                self.requests.append(request)
                answer = self._answer(request)
                if answer is None:
                    self._kept.append(connection)
                    continue
                with connection:
                    try:
                        connection.sendall(answer)
                    except OSError:
                        continue

    def close(self) -> None:
        """End the thread and close every connection."""
        os.write(self._stop_write, b"x")
        self._thread.join(10)
        for connection in [self._listener, *self._kept]:
            connection.close()
        os.close(self._stop_read)
        os.close(self._stop_write)


def healthy_answer(request: str) -> bytes | None:
    """Answer as a supervisor with two workers, both fresh, that is ready."""
    return b'{"ready": true}\n' if request == "ready\n" else b"ok 2 0\n"


StartSupervisor = Callable[[Callable[[str], bytes | None]], FakeSupervisor]


@pytest.fixture
def state_directory(tmp_path: Path) -> Path:
    """Return an empty state directory."""
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    return path


@pytest.fixture
def start_supervisor(state_directory: Path) -> Iterator[StartSupervisor]:
    """Return a function that starts a supervisor on the state directory's control socket."""
    started: list[FakeSupervisor] = []

    def start(answer: Callable[[str], bytes | None]) -> FakeSupervisor:
        started.append(FakeSupervisor(state_directory / "control.sock", answer))
        return started[-1]

    yield start
    for supervisor in started:
        supervisor.close()
