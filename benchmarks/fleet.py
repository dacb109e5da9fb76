"""What is measured: many gunicorn workers of Debian's, and the exporter that counts their garbage collections."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.product.exporter import EXAMPLES, Exporter, comm, free_port, start, until

CONFIG = Path(__file__).with_name("gc_total.yaml")
_APP_FOLDER = EXAMPLES / "gunicorn-gc"
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """A gunicorn under a name that no other process has; `pids` are its master's and its workers'."""

    name: str
    pids: list[int]

    @property
    def config(self) -> str:
        """A config that counts their collections, and nobody else's."""
        return CONFIG.read_text().replace("binary_name: gunicorn", f"binary_name: {self.name}")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the exporter's log, and when it was written, in Unix seconds."""

    seconds: float
    event: str
    pid: int | None


@contextlib.contextmanager
def gunicorn_fleet(workers: int) -> Iterator[Fleet]:
    """Run Debian's gunicorn over the example app.

    On a Python of its own, a copy of Debian's: the kernel names a process after the path that it executes, and probes
    are on a file. Whoever else probes Debian's, or did and was killed over it, so stays out of this.
    """
    name = f"bench-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="exporter-bench-") as folder:
        python = Path(folder) / name
        shutil.copy("/usr/bin/python3", python)
        arguments = [f"--workers={workers}", f"--bind=127.0.0.1:{free_port()}", "--worker-tmp-dir=/dev/shm"]
        master = subprocess.Popen(
            [python, "/usr/bin/gunicorn", f"--pythonpath={_APP_FOLDER}", *arguments, "app:app"],
            cwd="/",
            env={**os.environ, "PYTHONHOME": "/usr"},  # the copy would look for its library beside itself
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            pids = until(lambda: _family(master.pid, name, 1 + workers), "gunicorn's workers", seconds=_START_SECONDS)
            _wait_idle(pids)
            yield Fleet(name, pids)
        finally:
            master.terminate()
            try:
                master.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                master.kill()
                master.wait()


@contextlib.contextmanager
def started_exporter(fleet: Fleet) -> Iterator[Exporter]:
    """Execute the exporter and wait for nothing; nothing of it is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="exporter-bench-", dir="/run"))
    folder.chmod(0o711)  # the web user passes through
    try:
        running = start(folder, fleet.config, "--log-format=json")
        try:
            yield running
        finally:
            running.stop(seconds=_STOP_SECONDS)
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def attached_exporter(fleet: Fleet) -> Iterator[Exporter]:
    """Run the exporter; every process of the fleet is attached, and nothing was scraped yet."""
    with started_exporter(fleet) as running:
        wait_attached(running, fleet)
        yield running


def wait_attached(running: Exporter, fleet: Fleet) -> None:
    """Wait until every process of the fleet is attached, by the log alone: a scrape would change what is measured."""

    def all_attached() -> bool:
        assert running.process.poll() is None, running.log
        return {line.pid for line in log_lines(running) if line.event == "attached"} >= set(fleet.pids)

    until(all_attached, f"{len(fleet.pids)} processes attached", seconds=_START_SECONDS)


def log_lines(running: Exporter) -> list[Line]:
    """Return what the exporter has logged so far; a line that is being written is left out."""
    lines = []
    for text in running.log.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            fields = json.loads(text)
            lines.append(Line(datetime.fromisoformat(fields["time"]).timestamp(), fields["msg"], fields.get("pid")))
    return lines


def children(pid: int) -> list[int]:
    """Return the processes that `pid` has forked and that live."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _family(master: int, name: str, size: int) -> list[int]:
    pids = [master, *children(master)]
    return pids if len(pids) == size and all(comm(pid) == name for pid in pids) else []


def _wait_idle(pids: list[int]) -> None:
    """Wait until the processes have done what they do when they start."""
    before = -1
    while (ran := sum(_ran_nanoseconds(pid) for pid in pids)) - before > 20_000_000:
        before = ran
        time.sleep(0.5)


def _ran_nanoseconds(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
