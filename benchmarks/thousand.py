"""Do a thousand targets that come and go cost anything that grows, and is every scrape answered within a second?

    python -m benchmarks.thousand --minutes 10

Small C programs, half of them with series of their own, half with common ones. Once all are attached there is a scrape
every 5 s, while some targets a second end and others begin. What the exporter has is read while nothing changes: after
a minute of this, and at the end. At the end what was scraped must be what the targets have counted, to the last hit.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from math import inf
from pathlib import Path
from statistics import median, quantiles

import psutil
from benchmarks.crowd import HITS, PERIOD_SECONDS, Crowd, crowd
from benchmarks.fleet import children, log_lines
from benchmarks.readings import exact_cpu_seconds, memory, print_conditions, print_table

from tests.product.exporter import PREFIX, Exporter, Samples, comm, samples_of, start, until

TARGETS = 1000
MINUTES = 10.0
WARM_UP_SECONDS = 60.0
SCRAPE_SECONDS = 5.0
CHANGES_A_SECOND = 4
GRACE = "--exit-grace=3s"  # so that the files of those that have ended are gone before files are counted
DEADLINE_SECONDS = 300.0
GOAL_SCRAPE_SECONDS = 1.0
# Nothing may grow but memory: the allocators of a thousand processes keep some pages more or fewer, and what is
# remembered of pids, of the last few thousand, is remembered of more of them.
MOST_GROWTH = 0.02
MOST_REMEMBERED_MB = 4.0  # of the supervisor and of the web

_SUPERVISOR = "MB of its own: supervisor, and what forks for it"
_WEB = "MB of its own: web"
_STAYING = {"exporter-worker", "exporter-forks", "python"}  # which is gunicorn


@dataclass(frozen=True, slots=True)
class Scrape:
    """An answer under load: seconds, bytes, and how many workers' values were not of that moment, all if infinity."""

    seconds: float
    size: int
    stale: float


@dataclass(slots=True)
class Stretch:
    """A time of scrapes and changes; CPU seconds of the supervisor and of the web."""

    scrapes: list[Scrape] = field(default_factory=list)
    changes: int = 0
    seconds: float = 0.0
    supervisor: float = 0.0
    web: float = 0.0
    idle: float = 0.0  # of all cores


def main() -> None:
    """Measure, print, and exit with 1 where a goal is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--targets", type=int, default=TARGETS)
    options = parser.parse_args()
    print_conditions()
    with crowd(options.targets) as targets:
        begin = time.time()  # the log's clock
        with _started(targets) as running:
            _wait_attached(running, targets)
            _print_start(running, begin)
            warming = _run(running, targets, min(WARM_UP_SECONDS, 30 * options.minutes))
            before = _quiet_reading(running, targets)
            stretch = _run(running, targets, 60 * options.minutes)
            after = _quiet_reading(running, targets)
            differences = _differences(running, targets)
            stop_begin = time.monotonic()
            running.stop(seconds=DEADLINE_SECONDS)
            stop_seconds = time.monotonic() - stop_begin
    rows = [[name, _shown(before[name]), _shown(after[name]), _change(before[name], after[name])] for name in before]
    title = f"{options.targets} targets, {stretch.changes} of them replaced in {stretch.seconds / 60:.1f} minutes"
    print_table(title, ["while nothing changes", "begin", "end", "change"], rows)
    _print_scrapes(stretch)
    print(f"stopped in {stop_seconds:.2f} s\n")
    slowest = max(each.seconds for each in (*warming.scrapes, *stretch.scrapes))
    grown = [name for name in before if _has_grown(name, before[name], after[name])]
    verdicts = {
        f"slowest scrape {slowest:.2f} s, goal {GOAL_SCRAPE_SECONDS:g} s": slowest <= GOAL_SCRAPE_SECONDS,
        f"grown: {', '.join(grown) or 'nothing'}, goal nothing": not grown,
        f"counts that are not the targets' own: {len(differences)}, goal 0": not differences,
    }
    for words, is_met in verdicts.items():
        print(f"{words}: {'met' if is_met else 'missed'}")
    for words in differences[:10]:
        print(words)
    sys.exit(not all(verdicts.values()))


@contextmanager
def _started(targets: Crowd) -> Iterator[Exporter]:
    """Execute the exporter; its files are in memory, as below /run of most machines."""
    with tempfile.TemporaryDirectory(prefix="exporter-bench-", dir="/dev/shm") as folder:
        Path(folder).chmod(0o711)  # the web user passes through
        running = start(Path(folder), targets.config, GRACE, "--log-format=json")
        try:
            yield running
        finally:
            running.stop(seconds=DEADLINE_SECONDS)


def _wait_attached(running: Exporter, targets: Crowd) -> None:
    def all_attached() -> bool:
        assert running.process.poll() is None, running.log
        return {line.pid for line in log_lines(running) if line.event == "attached"} >= targets.pids()

    until(all_attached, "all attached", seconds=DEADLINE_SECONDS, pause=0.5)


def _print_start(running: Exporter, begin: float) -> None:
    lines = log_lines(running)
    built = [line.seconds for line in lines if line.event == "built"]
    attached = sorted(line.seconds for line in lines if line.event == "attached")
    print(
        f"{len(attached)} attached {attached[-1] - built[-1]:.1f} s after the last of {len(built)} builds, "
        f"{attached[-1] - begin:.1f} s after exec"
    )


def _run(running: Exporter, targets: Crowd, seconds: float) -> Stretch:
    """Scrape and replace targets for so long; in this thread, as targets end with the thread that has started them."""
    stretch, scrapes = Stretch(), list[Future[Scrape]]()
    _, *web = _web(running)
    cpu = [exact_cpu_seconds(pid) for pid in (running.process.pid, *web)]
    begin, idle = time.monotonic(), psutil.cpu_times().idle
    with ThreadPoolExecutor(1) as scraper:
        for turn in count():
            if turn % int(SCRAPE_SECONDS * CHANGES_A_SECOND) == 0:
                scrapes.append(scraper.submit(_scrape, running))
            targets.replace_one()
            stretch.changes += 1
            if (now := time.monotonic()) > begin + seconds:
                break
            time.sleep(max(0.0, begin + (turn + 1) / CHANGES_A_SECOND - now))
    stretch.scrapes = [each.result() for each in scrapes]
    stretch.seconds, stretch.idle = time.monotonic() - begin, psutil.cpu_times().idle - idle
    stretch.supervisor, stretch.web = (
        exact_cpu_seconds(pid) - before for pid, before in zip((running.process.pid, *web), cpu, strict=True)
    )
    return stretch


def _scrape(running: Exporter) -> Scrape:
    response = running.get(seconds=60)
    assert response.status == 200
    found = re.search(rf"^{PREFIX}stale_workers (\S+)$", response.body.decode(), re.MULTILINE)
    return Scrape(response.seconds, len(response.body), inf if found is None else float(found[1]))


def _quiet_reading(running: Exporter, targets: Crowd) -> dict[str, float]:
    """Return what the exporter has, once everything that ended is forgotten and everything that began is attached."""

    def is_quiet() -> bool:
        states = Counter[str]()
        for labels, value in running.values("targets").items():
            states[dict(labels)["state"]] += int(value)
        kinds = Counter(map(comm, children(running.process.pid)))
        return +states == Counter(running=len(targets.members)) == Counter(running=kinds["exporter-worker"]) and not (
            kinds.keys() - _STAYING
        )

    until(is_quiet, "all attached, and nobody else is left", seconds=DEADLINE_SECONDS, pause=1.0)
    own = children(running.process.pid)
    web, workers = _web(running), [pid for pid in own if comm(pid) == "exporter-worker"]
    supervisor = [running.process.pid, *(pid for pid in own if comm(pid) == "exporter-forks")]
    objects = set[str]()
    for pid in (*supervisor, *workers):
        objects |= _bpf_objects(pid)
    return {
        _SUPERVISOR: _megabytes(supervisor),
        _WEB: _megabytes(web),
        "MB of its own: workers": _megabytes(workers),
        "MB of workers, their part of what is shared too": sum(memory(pid).pss for pid in workers) / 1024,
        "descriptors: supervisor": _descriptors(supervisor),
        "descriptors: web": _descriptors(web),
        "descriptors: workers": _descriptors(workers),
        "processes": len(supervisor) + len(web) + len(workers),
        "threads": sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in (*supervisor, *web, *workers)),
        "BPF objects": len(objects),
        "files in the state directory": sum(path.is_file() for path in running.state_dir.rglob("*")),
        "bytes of them": sum(path.stat().st_size for path in running.state_dir.rglob("*") if path.is_file()),
    }


def _web(running: Exporter) -> list[int]:
    (master,) = running.children("python")  # -m gunicorn
    return [master, *children(master)]


def _megabytes(pids: Iterable[int]) -> float:
    return sum(memory(pid).uss for pid in pids) / 1024


def _descriptors(pids: Iterable[int]) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)  # noqa: PTH208 - as often as there are workers


def _bpf_objects(pid: int) -> set[str]:
    """Return the kernel's numbers of the maps, programs and links that a process has open."""
    found = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):
            found.update(re.findall(r"^(?:map|prog|link)_id:\t\d+$", path.read_text(), re.MULTILINE))
    return found


def _differences(running: Exporter, targets: Crowd) -> list[str]:
    """Return where a scrape is not what the targets have counted themselves."""
    with targets.at_rest():
        until(lambda: not _scrape(running).stale, "all workers answer in time")
        samples = samples_of(running.get())
        hits = targets.hits()
    expected = {f"each, pid {pid}": hits[pid] for pid in targets.pids("each")}
    expected["sum"] = targets.ended["sum"] + sum(hits[pid] for pid in targets.pids("sum"))
    found = _found(samples)
    print(f"{sum(found.values()):.0f} hits counted, {sum(hits.values())} by the targets that are there")
    names = expected.keys() | found.keys()
    return [
        f"{name}: {found.get(name, 0):.0f} for {expected.get(name, 0)}"
        for name in sorted(names)
        if found.get(name, 0) != expected.get(name, 0)
    ]


def _found(samples: Samples) -> dict[str, float]:
    found = Counter[str]()
    for (name, labels), value in samples.items():
        if name == f"{PREFIX}each_hits_total":
            found[f"each, pid {dict(labels)['pid']}"] += int(value)
        elif name == f"{PREFIX}sum_hits_total":
            found["sum"] += int(value)
    return dict(found)


def _has_grown(name: str, before: float, after: float) -> bool:
    if name in (_SUPERVISOR, _WEB):
        return after > before + MOST_REMEMBERED_MB
    return after > before * (1 + MOST_GROWTH if name.startswith(("MB", "bytes")) else 1)


def _shown(number: float) -> str:
    return f"{number:.1f}" if isinstance(number, float) else str(number)


def _change(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %"


def _print_scrapes(stretch: Stretch) -> None:
    seconds = [each.seconds for each in stretch.scrapes]
    late = [each.stale for each in stretch.scrapes if each.stale]
    print(
        f"\n{len(seconds)} scrapes of {stretch.scrapes[-1].size / 1024:.0f} kB, each target {HITS / PERIOD_SECONDS:g} "
        f"hits a second: median {1000 * median(seconds):.0f} ms, "
        f"p95 {1000 * quantiles(seconds, n=20)[-1]:.0f} ms, slowest {1000 * max(seconds):.0f} ms; "
        f"{len(late)} with stale workers, of which {late.count(inf)} without any answer of the supervisor's"
    )
    supervisor = 100 * stretch.supervisor / stretch.seconds
    web = 1000 * stretch.web / len(seconds)
    idle = 100 * stretch.idle / stretch.seconds / (os.cpu_count() or 1)
    print(
        f"supervisor {supervisor:.1f} % of a core; web {web:.1f} ms of CPU a scrape; all cores idle {idle:.0f} % of it"
    )


if __name__ == "__main__":
    main()
