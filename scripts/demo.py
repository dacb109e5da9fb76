"""The demo itself; scripts/demo prepares what it needs and starts it.

It starts Debian's gunicorn with examples/gunicorn-gc/app.py as user nobody, and then the exporter, as anybody would.
What the exporter counted from outside is shown beside what each worker's Python says of itself.
"""

import argparse
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
EXPORTER = ROOT / ".venv/bin/ebpf-userspace-exporter"
CONFIG = ROOT / "examples/gunicorn-gc/config.yaml"
GUNICORN = "/usr/bin/gunicorn"  # Debian's: its Python has the probes
WORKERS = 4
START_SECONDS = 60
BUILD_SECONDS = 120
STOP_SECONDS = 10
REQUEST_SECONDS = 5
REQUESTS = 200
DEFAULT_PORT = 8080

GC_TOTAL = re.compile(rb'^userspace_exporter_gc_total\{gen="(\d)",pid="(?P<pid>\d+)"\} (\S+)$', re.MULTILINE)
ENABLED = re.compile(rb'^userspace_exporter_enabled_programs\{name="gc",pid="(\d+)"\} 1', re.MULTILINE)

Collections = dict[int, tuple[int, int, int]]
"""By worker's pid: how many collections of generation 0, 1 and 2."""


class DemoError(Exception):
    """What went wrong, for people."""


@dataclass(frozen=True, slots=True)
class Running:
    """A program that the demo started, and where it listens and writes its log."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str) -> bytes:
        """Return the body; OSError or HTTPException where there is no answer 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"{response.status} for {path}: {body.decode(errors='replace').strip()}")
        return body


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Show the exporter at work.")
    parser.add_argument("--once", action="store_true", help="show the numbers and end; 0 if collections were counted")
    once = parser.parse_args().once
    for number in (signal.SIGINT, signal.SIGTERM):  # started in the background by a shell, SIGINT would be ignored
        signal.signal(number, _end)
    try:
        # The web user passes through this folder to the state directory in it; nobody else can look in.
        with tempfile.TemporaryDirectory(prefix="ebpf-userspace-exporter-demo-", dir="/run") as folder:
            Path(folder).chmod(0o711)
            return demonstrate(Path(folder), once=once)
    except DemoError as error:
        say(f"demo: {error}")
        return 1
    except KeyboardInterrupt:
        say("demo: interrupted")
        return 130


def demonstrate(folder: Path, *, once: bool) -> int:
    """Return the exit code: 0 if collections were counted."""
    with gunicorn(folder) as app:
        wait("the app's workers", START_SECONDS, [app], lambda: len(own_counts(app)) == WORKERS)
        before = own_counts(app)
        say(f"A gunicorn app runs on http://127.0.0.1:{app.port}/ with workers {', '.join(map(str, sorted(before)))}.")
        with exporter(folder, free_port(None if once else DEFAULT_PORT)) as running:
            wait("the exporter", START_SECONDS, [app, running], lambda: bool(running.get("/-/ready")))
            wait("the probes", BUILD_SECONDS, [app, running], lambda: enabled(running) >= before.keys())
            say(f"The exporter has attached a probe to each, and serves http://127.0.0.1:{running.port}/metrics.")

            attached_own, attached = at_rest(app, running)
            put_to_work(app, REQUESTS)
            own, counted = at_rest(app, running)
            say(f"{REQUESTS} requests later:\n")
            show_samples(running, own.keys())
            show_table(increase(attached, counted), increase(attached_own, own))
            if not any(any(generations) for generations in increase(attached, counted).values()):
                raise DemoError(f"no collection was counted; the exporter's log:\n{tail(running.log)}")
            if not once:
                say("\nLook for yourself, until Ctrl-C:")
                say(f"  curl -s http://127.0.0.1:{running.port}/metrics | grep gc_total")
                go_on(app, running)
    return 0


@contextmanager
def gunicorn(folder: Path) -> Iterator[Running]:
    port = free_port()
    command = [GUNICORN, "--pythonpath", str(CONFIG.parent), "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", str(WORKERS), "--user", "nobody", "--group", "nogroup", "--worker-tmp-dir", "/dev/shm"]  # noqa: S108
    with started("gunicorn", [*command, "app:app"], port, folder / "gunicorn.log") as running:
        yield running


@contextmanager
def exporter(folder: Path, port: int) -> Iterator[Running]:
    command = [str(EXPORTER), "-c", str(CONFIG), "-l", f"127.0.0.1:{port}", "--state-dir", str(folder / "state")]
    say(f"Starting: {' '.join(command)}")
    with started("the exporter", command, port, folder / "exporter.log") as running:
        yield running


@contextmanager
def started(name: str, command: list[str], port: int, log: Path) -> Iterator[Running]:
    """Run a command for as long as the block lasts; it ends with us even if we are killed."""
    executable = shutil.which(command[0])
    if executable is None:
        raise DemoError(f"{command[0]} is missing; scripts/setup --demo installs it")
    # A session of its own: Ctrl-C is for us, who then end it in order.
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/usr/bin/setpriv", "--pdeathsig", "TERM", "--", executable, *command[1:]],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Running(name, process, port, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(what: str, seconds: float, programs: list[Running], is_there: Callable[[], bool]) -> None:
    """Return once `is_there`; DemoError with the last log lines if a program ends before, or the time is over."""
    deadline = time.monotonic() + seconds
    reason: Exception | None = None
    while time.monotonic() < deadline:
        check_alive(programs)
        try:
            if is_there():
                return
        except (OSError, http.client.HTTPException) as error:
            reason = error
        time.sleep(0.1)
    newest = programs[-1]
    raise DemoError(
        f"{what} did not come up in {seconds:.0f} s ({reason}); last lines of {newest.name}:\n{tail(newest.log)}"
    )


def check_alive(programs: list[Running]) -> None:
    for program in programs:
        if (code := program.process.poll()) is not None:
            raise DemoError(f"{program.name} ended with exit code {code}:\n{tail(program.log)}")


def enabled(running: Running) -> set[int]:
    return {int(pid) for pid in ENABLED.findall(running.get("/metrics"))}


def own_counts(app: Running) -> Collections:
    """Return what the workers say of themselves; those that happened to answer, usually all."""

    def one(_: int) -> tuple[int, tuple[int, int, int]]:
        stats = json.loads(app.get("/stats"))
        first, second, third = stats["collections"]
        return stats["pid"], (first, second, third)

    with ThreadPoolExecutor(WORKERS * 2) as pool:
        # Of several answers of one worker the highest is the last.
        return dict(sorted(pool.map(one, range(WORKERS * 16)), key=lambda answer: answer[1]))


def counted_by_exporter(running: Running) -> Collections:
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for generation, pid, value in GC_TOTAL.findall(running.get("/metrics")):
        counts[int(pid)][int(generation)] = int(float(value))
    return {pid: (first, second, third) for pid, (first, second, third) in counts.items()}


def at_rest(app: Running, running: Running) -> tuple[Collections, Collections]:
    """Return both counts of one moment: no worker collected while the exporter was asked."""
    deadline = time.monotonic() + START_SECONDS
    own = own_counts(app)
    while time.monotonic() < deadline:
        counted = counted_by_exporter(running)
        again = own_counts(app)
        if again == own and len(own) == WORKERS:
            return own, {pid: counted.get(pid, (0, 0, 0)) for pid in own}
        own = again
    raise DemoError("the workers never came to rest")


def increase(before: Collections, after: Collections) -> Collections:
    return {
        pid: (now[0] - then[0], now[1] - then[1], now[2] - then[2])
        for pid, now in after.items()
        for then in [before.get(pid, (0, 0, 0))]
    }


def put_to_work(app: Running, requests: int) -> None:
    with ThreadPoolExecutor(WORKERS * 2) as pool:
        for _ in pool.map(lambda _: app.get("/"), range(requests)):
            pass


def show_samples(running: Running, pids: Set[int]) -> None:
    for sample in GC_TOTAL.finditer(running.get("/metrics")):
        if int(sample["pid"]) in pids:
            say(f"    {sample[0].decode()}")


def show_table(counted: Collections, own: Collections) -> None:
    say("\nThe increase by these requests, beside what each worker's own Python counted:\n")
    say(f"{'':>10}  {'userspace_exporter_gc_total':^33}   {'gc.get_stats() in the worker':^33}")
    say(f"{'pid':>10}" + f"  {'gen 0':>11}{'gen 1':>11}{'gen 2':>11} " * 2)
    for pid in sorted(counted):
        numbers = "".join(f"{number:>11}" for number in counted[pid])
        own_numbers = "".join(f"{number:>11}" for number in own[pid])
        say(f"{pid:>10}  {numbers}   {own_numbers}")


def go_on(app: Running, running: Running) -> None:
    """Keep the numbers moving until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        while True:
            check_alive([app, running])
            put_to_work(app, WORKERS)
            time.sleep(1)


def free_port(wanted: int | None = None) -> int:
    """Return the wanted port if it is free on every address, else any that is."""
    for port in (wanted, 0):
        if port is None:
            continue
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(candidate.getsockname()[1])
    raise DemoError("no free port on 127.0.0.1")


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _end(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
