"""What each process of the exporter holds: a worker its own target's, builders and the web nothing of any."""

import contextlib
import os
import pwd
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.product.compiled import SOURCE, Target, compile_c, run_target
from tests.product.exporter import Exporter, comm, exporter
from tests.product.faults import ATTACH_IDS, ATTACH_MODES, descendants, fresh

pytestmark = pytest.mark.bpf

CONFIG = "programs:\n" + "".join(
    f"""
  - name: {name}
    attachment: {{binary_name: xp-isolated}}
    uprobes: {{event: on_event}}
    usdt: {{"app:work": on_work}}
    metrics:
      counters: [{{name: {name}_total, table: counts}}]
      histograms:
        - name: {name}_distribution
          table: distribution
          bucket_type: linear
          bucket_max: 3
          labels: [{{name: bucket, size: 4, decoders: [{{name: uint}}]}}]
    code: |
      BPF_ARRAY(counts, u64, 1);
      BPF_HISTOGRAM(distribution, int, 5);
      int on_event(void *ctx) {{ counts.increment(0); distribution.increment(1); return 0; }}
      int on_work(void *ctx) {{ counts.increment(0); return 0; }}
"""
    for name in ("first", "second")
)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one process has open: links of /proc/PID/fd, and what fdinfo tells of them."""

    paths: list[str] = field(default_factory=list)
    maps: set[int] = field(default_factory=set)
    bpf_links: set[int] = field(default_factory=set)
    processes: set[int] = field(default_factory=set)

    @property
    def perf_events(self) -> int:
        return self.paths.count("anon_inode:[perf_event]")


@dataclass(frozen=True, slots=True)
class Isolated:
    """An exporter with two programs on three processes; `builders` is what was seen in builders' hands."""

    running: Exporter
    targets: list[int]
    builders: dict[int, Holding]
    own: dict[int, Holding]

    @property
    def supervisor(self) -> Holding:
        return self.own[self.running.process.pid]

    def named(self, name: str) -> dict[int, Holding]:
        return {pid: holding for pid, holding in self.own.items() if comm(pid) == name}


@pytest.fixture(scope="module", params=ATTACH_MODES, ids=ATTACH_IDS)
def isolated(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Isolated]:
    binary = compile_c(SOURCE, tmp_path_factory.mktemp("isolated") / "xp-isolated")
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(exporter(CONFIG, environment=request.param))
        with watching_builders(running) as builders:
            # The first is attached when the builder for the second binary, which is a copy, is at work.
            targets = [stack.enter_context(run_target(binary))]
            attach(running, targets)
            copy = binary.parent / "copy" / "xp-isolated"
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(binary.read_bytes())
            copy.chmod(0o755)
            targets += [stack.enter_context(run_target(path)) for path in (copy, copy)]
            attach(running, targets)
        fresh(running)
        own = {pid: holding_of(pid) for pid in (running.process.pid, *descendants(running.process.pid))}
        yield Isolated(running, [target.pid for target in targets], builders, own)


def attach(running: Exporter, targets: list[Target]) -> None:
    for name in ("first", "second"):
        running.wait_attached(name, *(target.pid for target in targets))


def test_each_worker_holds_one_target_and_each_target_has_one_worker_a_program(isolated: Isolated) -> None:
    workers = isolated.named("exporter-worker")

    assert all(len(holding.processes) == 1 for holding in workers.values())
    held = sorted(pid for holding in workers.values() for pid in holding.processes)
    assert held == sorted(isolated.targets * 2)


def test_each_map_is_held_by_the_supervisor_and_one_worker_only(isolated: Isolated) -> None:
    workers = isolated.named("exporter-worker")
    assert len(workers) == 6

    for pid, holding in workers.items():
        assert len(holding.maps) == 2, pid
        assert holding.maps <= isolated.supervisor.maps
        others = [other for holder, other in isolated.own.items() if holder not in (pid, isolated.running.process.pid)]
        assert all(holding.maps.isdisjoint(other.maps) for other in others)
    assert len(isolated.supervisor.maps) == 12


def test_each_link_is_held_by_the_supervisor_and_one_worker_only(
    isolated: Isolated, request: pytest.FixtureRequest
) -> None:
    workers = isolated.named("exporter-worker")
    if isolated.supervisor.bpf_links:
        assert len(isolated.supervisor.bpf_links) == 12
        for pid, holding in workers.items():
            assert len(holding.bpf_links) == 2, pid
            others = [other for holder, other in workers.items() if holder != pid]
            assert all(holding.bpf_links.isdisjoint(other.bpf_links) for other in others)
    else:
        # event() and the three locations of app:work; perf events have no number to tell them apart by.
        assert isolated.supervisor.perf_events == 6 * 4
        assert [holding.perf_events for holding in workers.values()] == [4] * 6


def test_a_worker_has_nothing_else_but_its_metric_files_and_its_channel(isolated: Isolated) -> None:
    for pid, holding in isolated.named("exporter-worker").items():
        (target,) = holding.processes
        others = [path for path in holding.paths[3:] if not path.startswith("anon_inode:") and "pidfd" not in path]
        files = {Path(path).name for path in others if path.startswith("/")}
        assert len(files) == 2, pid
        assert [name for name in files if not re.fullmatch(rf"(counter|histogram)_\w+-\w+_{target}\.db", name)] == []
        assert [path.partition(":")[0] for path in others if not path.startswith("/")] == ["socket"]
        inodes = [path for path in holding.paths if path.startswith("anon_inode:") and "pidfd" not in path]
        assert inodes.count("anon_inode:bpf-prog") == 2  # whose runs it reads
        maps = 2 * len(holding.maps)  # arrays, read as memory: Python's mmap has another descriptor of each
        assert len(inodes) == 2 + maps + len(holding.bpf_links) + holding.perf_events


def test_gunicorn_holds_nothing_of_a_target_and_no_lock(isolated: Isolated) -> None:
    web = {pid: holding for pid, holding in isolated.own.items() if b"gunicorn" in command_line(pid)}

    assert len(web) == 2
    for holding in web.values():
        assert holding.maps == holding.bpf_links == holding.processes == set()
        assert holding.perf_events == 0
        assert [path for path in holding.paths if "bpf" in path or "perf" in path or "pidfd" in path] == []
        assert [path for path in holding.paths if str(isolated.running.state_dir) in path] == []


def test_no_process_but_the_supervisor_holds_the_lock(isolated: Isolated) -> None:
    lock = str(isolated.running.state_dir / "lock")

    assert [pid for pid, holding in isolated.own.items() if lock in holding.paths] == [isolated.running.process.pid]


def test_builders_hold_nothing_of_targets_that_were_attached_before(isolated: Isolated) -> None:
    assert len(isolated.builders) >= 2
    for holding in isolated.builders.values():
        assert holding.maps.isdisjoint(isolated.supervisor.maps)
        assert holding.bpf_links == holding.processes == set()
        assert holding.perf_events == 0


def test_the_web_is_nobody_without_a_capability(isolated: Isolated) -> None:
    web = [pid for pid in isolated.own if b"gunicorn" in command_line(pid)]
    nobody = pwd.getpwnam("nobody")

    assert web
    for pid in web:
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            assert int(status[kind], 16) == 0, (pid, kind)
        assert status["NoNewPrivs"] == "1"  # so that the bounding set bounds nothing that could be gained
        assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
        assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
        assert status["Groups"].split() == []


@contextlib.contextmanager
def watching_builders(running: Exporter) -> Iterator[dict[int, Holding]]:
    """Look at what builders hold, again and again; give what was seen last of each."""
    seen: dict[int, Holding] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for pid in running.children("exporter-build"):
                with contextlib.suppress(OSError):
                    seen[pid] = holding_of(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def holding_of(pid: int) -> Holding:
    """Return what a process has open now; OSError where it is gone."""
    holding = Holding()
    for number in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
        try:
            path = os.readlink(f"/proc/{pid}/fd/{number}")  # noqa: PTH115 - may be no path
            about = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
        except FileNotFoundError:
            continue
        holding.paths.append(path)
        holding.maps.update(map(int, re.findall(r"^map_id:\s*(\d+)$", about, re.MULTILINE)))
        holding.bpf_links.update(map(int, re.findall(r"^link_id:\s*(\d+)$", about, re.MULTILINE)))
        if "pidfd" in path:
            holding.processes.update(map(int, re.findall(r"^Pid:\s*(\d+)$", about, re.MULTILINE)))
    return holding


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
