"""What the tests of faults have in common: traffic and scrapes that go on meanwhile, and a look into processes."""

import contextlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.product.exporter import DEADLINE_SECONDS, PREFIX, Exporter, Samples, comm, samples_of, series, until
from tests.product.programs import PythonTarget

SCRAPE_SECONDS = 10.0  # after which Prometheus gives up; a tenth of a second where nobody else works
ATTACH_MODES = [{"USERSPACE_EXPORTER_ATTACH": ""}, {"USERSPACE_EXPORTER_ATTACH": "perf"}]
ATTACH_IDS = ["uprobe_multi", "perf_event"]


@dataclass(slots=True)
class Scrapes:
    """What a thread that scrapes all the time has seen; `problems` is empty if all was well."""

    number: int = 0
    problems: list[str] = field(default_factory=list)

    def wait_for(self, more: int) -> None:
        """Wait for that many scrapes that began after now."""
        wanted = self.number + more + 1
        until(lambda: self.number >= wanted, f"{more} more scrapes")


@contextlib.contextmanager
def scraping(running: Exporter, family: str, *, pid: int | None = None) -> Iterator[Scrapes]:
    """Scrape in a thread; when this ends, each scrape must have been 200, in time, and complete.

    Complete is: no total of `family`, with `pid` of that process only, has fallen or was missing after it was there.
    """
    scrapes, stopped = Scrapes(), threading.Event()
    labels = set() if pid is None else {("pid", str(pid))}
    thread = threading.Thread(target=_scrape, args=(running, family, labels, scrapes, stopped))
    thread.start()
    try:
        yield scrapes
        scrapes.wait_for(1)
    finally:
        stopped.set()
        thread.join()
    assert not scrapes.problems, f"{scrapes.problems[:5]}; log:\n{running.log}"


def _scrape(
    running: Exporter, family: str, labels: set[tuple[str, str]], scrapes: Scrapes, stopped: threading.Event
) -> None:
    highest: Samples = {}
    while not stopped.wait(0.02):
        try:
            response = running.get()
            samples = samples_of(response)
        except (OSError, AssertionError, ValueError) as error:
            scrapes.problems.append(repr(error))
            continue
        finally:
            scrapes.number += 1
        if response.seconds > SCRAPE_SECONDS:
            scrapes.problems.append(f"took {response.seconds:.2f} s")
        scrapes.problems.extend(f"missing: {key}" for key in highest.keys() - samples.keys())
        for key, value in samples.items():
            if key[0].startswith(PREFIX + family) and labels <= key[1]:
                if value < highest.get(key, 0):
                    scrapes.problems.append(f"fell from {highest[key]} to {value}: {key}")
                highest[key] = value


@contextlib.contextmanager
def traffic(target: PythonTarget) -> Iterator[None]:
    """Have the target collect garbage all the time."""
    stopped = threading.Event()

    def collect() -> None:
        while not stopped.wait(0.001):
            target.collect(20)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def series_config(*, binary_name: str, entries: int = 65536) -> str:
    """Return a config in which each collection of garbage makes a series of its own, of the value 1."""
    return f"""
programs:
  - name: gc_total
    metrics:
      counters:
        - name: gc_total
          help: Each gc event by its number
          table: gc_counts
          labels:
            - name: number
              size: 8
              decoders:
                - name: uint
    usdt:
      gc__start: count_gc
    attachment:
      binary_name: {binary_name}
    code: |
      BPF_HASH(gc_counts, u64, u64, {entries});
      BPF_ARRAY(numbers, u64, 1);
      int count_gc(struct pt_regs *ctx) {{
          int zero = 0;
          u64 *number = numbers.lookup(&zero);
          if (!number)
              return 0;
          u64 key = *number;
          *number += 1;
          gc_counts.increment(key);
          return 0;
      }}
"""


@dataclass(slots=True)
class Account:
    """What was counted by both sides when this was made, so that what comes after can be compared."""

    running: Exporter
    target: PythonTarget
    own: int
    counted: float

    @classmethod
    def opened(cls, running: Exporter, target: PythonTarget, program: str = "gc_total") -> "Account":
        """Wait until the target is attached and compare from now on."""
        running.wait_attached(program, target.pid)
        return cls(running, target, target.collect(0)[0], fresh(running).get(_gc_series(target), 0.0))

    def balance(self, samples: Samples | None = None) -> tuple[float, int]:
        """Return what the exporter and what the process itself has counted since; a scrape later than the events."""
        own = self.target.collect(0)[0] - self.own
        samples = fresh(self.running) if samples is None else samples
        return samples.get(_gc_series(self.target), 0.0) - self.counted, own


def _gc_series(target: PythonTarget) -> tuple[str, frozenset[tuple[str, str]]]:
    return series("gc_total", gen=0, pid=target.pid)


def fresh(running: Exporter) -> Samples:
    """Return the first scrape for which every worker has read its maps."""

    def scrape() -> Samples | None:
        samples = running.scrape()
        return samples if samples.get(series("stale_workers")) == 0 else None

    try:
        return until(scrape, "a scrape that every worker has answered")
    except AssertionError as error:
        raise AssertionError(f"{error}; log:\n{running.log}") from None


def worker_of(running: Exporter, target: int) -> int | None:
    """Return the pid of the live worker of a target: it holds the target's pidfd."""
    wanted = re.compile(rf"^Pid:\t{target}$", re.MULTILINE)
    for worker in running.children("exporter-worker"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for descriptor in Path(f"/proc/{worker}/fdinfo").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if wanted.search(descriptor.read_text()):
                        return worker
    return None


def wait_for_worker(running: Exporter, target: int, *, after: int | None = None) -> int:
    """Return the pid of the target's worker, of one that is not `after`, once it has answered a scrape."""

    def replaced() -> int | None:
        worker = worker_of(running, target)
        return worker if worker != after else None

    worker = until(replaced, f"another worker for {target}")
    fresh(running)
    return worker


def descendants(pid: int) -> set[int]:
    """Return all processes below one, as far as /proc shows them now."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= {int(child)} | descendants(int(child))
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not, but for one whose other threads still do."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = stat.rpartition(")")[2].split()
    return fields[0] not in "ZX" or int(fields[17]) > 1


def wait_until_gone(pids: set[int], *, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until none of the processes runs any more."""
    alive = pids
    deadline = time.monotonic() + seconds
    while alive := {pid for pid in alive if is_alive(pid)}:
        assert time.monotonic() < deadline, {pid: comm(pid) for pid in alive}
        time.sleep(0.01)


def descriptors(pid: int) -> Counter[str]:
    """Return what a process has open, by kind: the numbers of sockets and pipes are left out."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            link = str(Path(f"/proc/{pid}/fd/{name}").readlink())
            found[re.sub(r":\[\d+\]", "", link)] += 1
    return found


def descriptors_at_rest(pid: int) -> Counter[str]:
    """Return the same of a process that has just answered a scrape, when it has hung up."""
    seen = [descriptors(pid)]

    def settled() -> bool:
        time.sleep(0.05)
        seen.append(descriptors(pid))
        return seen[-3:] == [seen[-1]] * 3

    until(settled, "nothing is opened or closed")
    return seen[-1]


def processes_of(folder: Path) -> set[int]:
    """Return every process that was started with a path below the folder, orphans included: nobody else has it."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and is_alive(int(entry)):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_bytes() + Path(f"/proc/{entry}/environ").read_bytes()
                if os.fsencode(folder) in words:
                    found.add(int(entry))
    return found
