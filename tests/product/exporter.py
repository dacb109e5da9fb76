"""Runs the real exporter as a user would, and reads what it says over HTTP."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"
DEADLINE_SECONDS = 60.0  # for whatever must happen; these machines are noisy
PREFIX = "userspace_exporter_"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
Found = TypeVar("Found")


def until(
    condition: Callable[[], Found | None], what: str, *, seconds: float = DEADLINE_SECONDS, pause: float = 0.02
) -> Found:
    """Return the first true value of `condition`, asked for every `pause` seconds; fail if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)
    return found


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `seconds` is how long it took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(slots=True)
class Exporter:
    """A running exporter; its folder holds the config, the log and the state directory."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    arguments: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "programs.yaml"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def get(self, path: str = "/metrics", headers: Mapping[str, str] | None = None, seconds: float = 20) -> Response:
        """Ask over HTTP; a status of 400 and above is an answer too."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=dict(headers or {}))
        begin = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return Response(answer.status, dict(answer.headers), answer.read(), time.monotonic() - begin)
        except urllib.error.HTTPError as error:
            with error:
                return Response(error.code, dict(error.headers), error.read(), time.monotonic() - begin)

    def scrape(self) -> Samples:
        """Return every sample of a scrape, which must succeed; a series exposed twice is an error."""
        return samples_of(self.get())

    def value(self, name: str, /, **labels: str | int) -> float | None:
        """Return the one sample of that name with exactly these labels, of a fresh scrape; None if there is none."""
        return self.scrape().get(series(name, **labels))

    def values(self, name: str, /, **labels: str | int) -> dict[frozenset[tuple[str, str]], float]:
        """Return the samples of that name that have at least these labels."""
        wanted = {(key, str(text)) for key, text in labels.items()}
        return {
            have: value for (found, have), value in self.scrape().items() if found == PREFIX + name and wanted <= have
        }

    def total(self, name: str, /, **labels: str | int) -> float:
        """Return the sum of `values`."""
        return sum(self.values(name, **labels).values())

    def wait_ready(self) -> None:
        """Wait until the first look at the processes is through."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log
            with contextlib.suppress(OSError):
                return self.get("/-/ready", seconds=5).status == 200
            return False

        until(ready, "ready; log:\n" + self.log)

    def wait_attached(self, program: str, *pids: int) -> None:
        """Wait until the program is enabled for all these processes."""

        def attached() -> bool:
            samples = self.scrape()
            return all(series("enabled_programs", name=program, pid=pid) in samples for pid in pids)

        try:
            until(attached, f"{program} attached to {pids}")
        except AssertionError as error:
            raise AssertionError(f"{error}; log:\n{self.log}") from None

    def children(self, name: str) -> list[int]:
        """Return the pids of our children with that comm (exporter-worker, exporter-build, gunicorn …)."""
        return [pid for pid in _children_of(self.process.pid) if comm(pid) == name]

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 30) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


def samples_of(response: Response) -> Samples:
    """Return every sample of an answer, which must be one of 200; a series exposed twice is an error."""
    assert response.status == 200, response
    samples: Samples = {}
    # Of a family without a type the parser leaves the names alone; to a counter's it adds `_total`.
    body = re.sub(r"^# TYPE .*\n", "", response.body.decode(), flags=re.MULTILINE)
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"twice: {key}"
            samples[key] = sample.value
    return samples


def series(name: str, /, **labels: str | int) -> tuple[str, frozenset[tuple[str, str]]]:
    """Return the key of a sample of ours in what `scrape` returns."""
    return PREFIX + name, frozenset((key, str(text)) for key, text in labels.items())


@contextlib.contextmanager
def exporter(
    config: str | Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    through: Sequence[str] = (),
) -> Iterator[Exporter]:
    """Run an exporter over a config (its text, or a file); nothing of it is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="exporter-test-"))
    folder.chmod(0o755)  # the web user passes through
    try:
        started = start(folder, config, *arguments, environment=environment, through=through)
        try:
            started.wait_ready()
            yield started
        finally:
            if started.process.poll() is None:
                started.process.terminate()
                try:
                    started.process.wait(20)
                except subprocess.TimeoutExpired:
                    started.process.kill()
                    started.process.wait()
    finally:
        shutil.rmtree(folder)


def start(
    folder: Path,
    config: str | Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    through: Sequence[str] = (),
) -> Exporter:
    """Start an exporter in `folder` without waiting for anything; the caller ends it.

    `through` is a command that runs another one, such as unshare.
    """
    text = config.read_text() if isinstance(config, Path) else config
    (folder / "programs.yaml").write_text(text)
    port = free_port()
    command = [
        *through,
        *(sys.executable, "-m", "ebpf_userspace_exporter", "-c", str(folder / "programs.yaml")),
        *("-l", f"127.0.0.1:{port}", "--state-dir", str(folder / "state"), *arguments),
    ]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, **(environment or {})},
        )
    return Exporter(folder, port, process, list(arguments))


def comm(pid: int) -> str:
    """Return a process's name, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _children_of(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{entry}/status").read_text()
                if re.search(rf"^PPid:\t{pid}$", status, re.MULTILINE):
                    found.append(int(entry))
    return found
