"""Workers as the loop has them, real forks and a real state directory; each turn of the loop is called by hand."""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ebpf_userspace_exporter.config.model import Counter, Metrics, Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.builds import Builds
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase, Worker
from ebpf_userspace_exporter.supervisor.forking import WorkerSettings
from ebpf_userspace_exporter.supervisor.matching import Definition
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.processes import exec_mark, read_process
from ebpf_userspace_exporter.supervisor.reconcile import Action, Adopt, Start
from ebpf_userspace_exporter.supervisor.reports import Reports
from ebpf_userspace_exporter.supervisor.state_dir import StateDir
from ebpf_userspace_exporter.supervisor.targets import Slot, Target
from ebpf_userspace_exporter.supervisor.workers import Surroundings, Workers
from ebpf_userspace_exporter.worker.bpf.selftest import _COUNT, _COUNTS, _find_getppid
from ebpf_userspace_exporter.worker.file_names import metric_file_name
from ebpf_userspace_exporter.worker.image import FileIdentity, Image, Probe, ProbedFile
from ebpf_userspace_exporter.worker.metric_file import read_metric_file

DEADLINE_SECONDS = 30.0
PROGRAM = Program(
    name="calls",
    metrics=Metrics(counters=(Counter(name="calls_total", help="Calls of getppid", table="selftest"),)),
    attachment=Selector(binary_name=("x",)),
    code="",
)

# Calls getppid as often as each line says, then answers.
_CALLER = """
import ctypes, sys
libc = ctypes.CDLL(None)
print(flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        libc.getppid()
    print(flush=True)
"""


def image() -> Image:
    """Return an image, made by hand, that counts calls of getppid in this system's libc."""
    path, offset = _find_getppid()
    status = Path(path).stat()
    identity = FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    probe = Probe(_COUNT.name, 0, offset, ref_ctr_offset=0, is_return=False)
    return Image((_COUNT,), (_COUNTS,), (ProbedFile(path, identity),), (probe,))


class OneImage(Builds):
    """Has one image for everybody, and builds nothing; or fails with `error`."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"), None)
        self.image: Image | None = image()
        self.error: Exception | None = None

    def image_for(
        self, _target: Target, _program: Program, _mapped: frozenset[tuple[int, int]], _now: float
    ) -> Image | None:
        if self.error is not None:
            raise self.error
        return self.image


@dataclass(slots=True)
class Caller:
    """A process that calls getppid when told to."""

    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def call(self, times: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"%d\n" % times)
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self) -> None:
        """Let it exit, and leave it a zombie."""
        self.process.kill()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def caller() -> Iterator[Caller]:
    """Run a process that calls getppid when told to; it has settled when this begins."""
    command = [sys.executable, "-I", "-c", _CALLER]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Caller(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


@dataclass
class Scene:
    """What the loop owns, as far as workers need it."""

    folder: Path
    exit_grace: float = 60.0
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    metrics: OwnMetrics = field(default_factory=OwnMetrics)
    builds: OneImage = field(default_factory=OneImage)
    state_dir: StateDir = field(init=False)
    workers: Workers = field(init=False)

    def __post_init__(self) -> None:
        self.state_dir = StateDir(self.folder / "state", group=None)
        settings = WorkerSettings(self.state_dir, None, uprobe_multi=True)
        note_refused = Reports(self.metrics, self.state_dir, None).note_load
        surroundings = Surroundings(self.selector, self.exit_grace, 10.0, settings, note_refused)
        self.workers = Workers(surroundings, self.builds, self.metrics)

    def close(self) -> None:
        """End every child; nothing is left."""
        self.workers.drop_all(time.monotonic())
        self.until(lambda: self.workers.is_empty)
        assert not self.selector.get_map()
        self.selector.close()
        self.workers.close()
        self.state_dir.close()

    def do(self, *actions: Action) -> None:
        for action in actions:
            self.workers.perform(action, {PROGRAM.name: Definition(PROGRAM, PROGRAM.digest())}, time.monotonic())

    def events(self) -> None:
        """Take in what descriptors have to say, not who has exited."""
        for key, _ in self.selector.select(0.01):
            key.data(time.monotonic())

    def reap(self, *pids: int) -> None:
        """Wait for these children, and tell of them in one batch, as the loop does."""
        for pid in pids:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        for pid, exit_code in children.reap().items():
            self.workers.on_exit(pid, exit_code, time.monotonic())

    def turn(self) -> None:
        self.events()
        self.reap()

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            self.turn()

    def adopt(self, target: Target) -> Entry:
        self.do(Adopt(target))
        return self.workers.entries[target.slot]

    def running(self, target: Target) -> Entry:
        """Adopt a target and wait until its worker serves."""
        entry = self.adopt(target)
        self.do(Start(target.slot))
        self.until(lambda: entry.phase is Phase.RUNNING)
        return entry

    def starting(self, target: Target) -> tuple[Entry, socket.socket]:
        """Adopt a target and give it a worker that does nothing; return the worker's end of the channel, too."""
        entry = self.adopt(target)
        entry.holdings.image = self.builds.image
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        pid = children.spawn("idle", signal.pause, keep=())
        self.selector.register(ours, selectors.EVENT_READ, lambda now: self.workers._hearing.on_message(entry, now))
        entry.generation += 1
        entry.worker = Worker(pid, ours, time.monotonic())
        entry.phase, entry.deadline = Phase.STARTING, time.monotonic() + 60
        self.workers._roster.by_pid[pid] = entry
        return entry, theirs

    def value(self, slot: Slot) -> float:
        """Return the only number in the published file."""
        path = self.state_dir.path / metric_file_name("counter", slot.program, slot.pid)
        [(value, _)] = read_metric_file(path).values()
        return value

    def files(self) -> list[str]:
        return sorted(name for name in os.listdir(self.state_dir.path) if name.startswith("counter_"))


def target_of(pid: int) -> Target:
    """Return the target that a look at the process table would give."""
    process = read_process(pid)
    assert process is not None
    mark = exec_mark(process)
    assert mark is not None
    return Target(Slot(PROGRAM.name, pid), PROGRAM.digest(), process.start_ticks, mark)


def pid_of(entry: Entry) -> int:
    """Return the pid of the entry's worker, which it must have."""
    assert entry.worker is not None
    return entry.worker.pid
