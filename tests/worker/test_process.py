"""A worker counts the events of a real target, and whoever follows it goes on."""

import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.model import Counter, Decoder, Label, Metrics, Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.worker import process
from ebpf_userspace_exporter.worker.bpf.usage import FunctionUsage
from ebpf_userspace_exporter.worker.build import process as build_process
from ebpf_userspace_exporter.worker.build.headers import find_headers
from ebpf_userspace_exporter.worker.file_names import metric_file_name, temporary_file_name
from ebpf_userspace_exporter.worker.image import Image
from ebpf_userspace_exporter.worker.messages import (
    Collected,
    Failed,
    Linked,
    Loaded,
    MapsMade,
    Message,
    receive,
)
from ebpf_userspace_exporter.worker.metric_file import read_metric_file
from ebpf_userspace_exporter.worker.process import Assignment
from tests.product.compiled import SOURCE, Target, compile_c, run_target
from tests.worker.run_statistics import run_statistics

pytestmark = pytest.mark.bpf

DEADLINE_SECONDS = 30.0
CODE = """
#include <uapi/linux/ptrace.h>
struct event_t { u32 code; };
BPF_RINGBUF_OUTPUT(ring, 16);
BPF_PERF_OUTPUT(perf);
BPF_HASH(unread, u32, u64, 64);
int on_event(struct pt_regs *ctx) {
    struct event_t event = {.code = PT_REGS_PARM1(ctx)};
    u64 now = 1;
    unread.update(&event.code, &now);
    ring.ringbuf_output(&event, sizeof(event), 0);
    perf.perf_submit(ctx, &event, sizeof(event));
    return 0;
}
"""
LABELS = (Label(name="code", size=4, decoders=(Decoder(name="uint"),)),)
PROGRAM = Program(
    name="events",
    metrics=Metrics(
        counters=(
            Counter(name="ring_total", help="By ring buffer", table="ring", labels=LABELS),
            Counter(name="perf_total", help="By perf buffer", table="perf", labels=LABELS),
        )
    ),
    uprobes={"event": "on_event"},
    attachment=Selector(binary_name=("target",)),
    code=CODE,
)
PERF_ONLY = PROGRAM.model_copy(update={"metrics": Metrics(counters=PROGRAM.metrics.counters[1:])})
Counts = dict[tuple[str, int], float]


@dataclass(slots=True)
class Worker:
    """A worker process and what came from it; `published` is its file once that is renamed, as the supervisor does."""

    pid: int
    channel: socket.socket
    folder: Path
    target_pid: int
    generation: int
    maps: list[int] = field(default_factory=list)
    programs: list[int] = field(default_factory=list)
    links: list[int] = field(default_factory=list)

    def hear(self) -> Message:
        """Return its next message; keep the descriptors, publish its files."""
        received = receive(self.channel)
        assert received is not None, "the worker has hung up"
        message, descriptors = received
        match message:
            case MapsMade():
                self.maps = descriptors
            case Loaded():
                self.programs = descriptors
            case Linked():
                self.links += descriptors
            case Collected(publish=True):
                temporary = temporary_file_name("counter", PROGRAM.name, self.target_pid, self.generation)
                (self.folder / temporary).rename(self.file)
            case _:
                pass
        return message

    def until_ready(self) -> Collected:
        while not isinstance(message := self.hear(), Collected):
            assert not isinstance(message, Failed), message.message
        return message

    def ask(self, words: bytes = b"refresh 1") -> Collected:
        self.channel.send(words)
        answer = self.hear()
        assert isinstance(answer, Collected)
        return answer

    def counts(self) -> Counts:
        """Return its file's values by metric and code, after a refresh."""
        self.ask()
        found: Counts = {}
        for key, (value, _) in read_metric_file(self.file).items():
            _, sample, labels, _ = json.loads(key)
            found[sample.split("_")[-2], int(labels["code"])] = value
        return found

    def told_of_all(self, number: int) -> Mapping[str, int]:
        """Wait until as many events of code 7 as there were are counted or lost; return how many are lost."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:  # a refresh waits for so long only, and the rest is counted at the next one
            counts, lost = self.counts(), self.ask().lost_events
            known = {name: counts[name, 7] + lost[name] for name in ("ring", "perf")}
            if known == {"ring": number, "perf": number}:
                return lost
            assert max(known.values()) <= number
            assert time.monotonic() < deadline, known

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def status(self, name: str) -> int:
        """Return a number of /proc/PID/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    @property
    def file(self) -> Path:
        return self.folder / metric_file_name("counter", PROGRAM.name, self.target_pid)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(SOURCE, tmp_path_factory.mktemp("compiled") / "target")


@pytest.fixture
def target(binary: Path) -> Iterator[Target]:
    with run_target(binary) as running:
        yield running


@pytest.fixture(scope="module")
def image(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """PROGRAM, built by a builder."""
    headers = find_headers(None, tmp_path_factory.mktemp("headers")).path
    result, diagnostics = os.memfd_create("result"), os.memfd_create("diagnostics")
    with run_target(binary) as running:
        request = build_process.BuildRequest(PROGRAM, running.pid, headers, tmp_path_factory.mktemp("scratch"))
        child = os.fork()
        if child == 0:
            build_process.run(request, result, diagnostics)
        _, status = os.waitpid(child, 0)
    content, words = os.pread(result, build_process.MAX_RESULT_BYTES, 0), os.pread(diagnostics, 1 << 20, 0)
    os.close(result)
    os.close(diagnostics)
    return build_process.read_result(content, words, os.waitstatus_to_exitcode(status))


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker(image: Image, target: Target, tmp_path: Path) -> Iterator[StartWorker]:
    """Return what starts a worker for the target, to succeed another one if one is given."""
    with ExitStack() as stack:
        opened = os.pidfd_open(target.pid)
        stack.callback(os.close, opened)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
        pidfd = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 2000)  # as where there are many targets
        stack.callback(os.close, pidfd)
        started: list[Worker] = []

        def start(before: Worker | None = None, program: Program = PROGRAM) -> Worker:
            generation = len(started) + 1
            assignment = Assignment(
                program=program,
                pid=target.pid,
                image=image,
                directory=tmp_path,
                generation=generation,
                group=None,
                uprobe_multi=True,
                inherit_values=before is not None,
                labels=(("pid", str(target.pid)),),
                max_series=100,
            )
            maps, programs = (before.maps, before.programs) if before else ([], [])
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(DEADLINE_SECONDS)
            pid = children.spawn(
                "worker",
                lambda: process.run(assignment, theirs, pidfd, maps, programs, attached=before is not None),
                keep=(theirs.fileno(), pidfd, *maps, *programs),
            )
            theirs.close()
            started.append(Worker(pid, ours, tmp_path, target.pid, generation, list(maps), list(programs)))
            return started[-1]

        yield start
        for worker in started:
            worker.channel.close()
        for worker in started:
            with suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
        for descriptor in {fd for worker in started for fd in (*worker.maps, *worker.programs, *worker.links)}:
            os.close(descriptor)


def events(target: Target, code: int, times: int) -> None:
    target.tell(f"event {code} /x 127.0.0.1 1 {times}")


def test_each_event_counts_for_its_labels(target: Target, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.until_ready()
    events(target, 7, 100)
    events(target, 9, 30)

    assert worker.counts() == {("ring", 7): 100, ("ring", 9): 30, ("perf", 7): 100, ("perf", 9): 30}
    events(target, 7, 1)
    assert worker.counts()["ring", 7] == 101
    assert worker.ask().lost_events == {"ring": 0, "perf": 0}


def test_what_comes_while_no_worker_lives_is_counted_or_lost(target: Target, start_worker: StartWorker) -> None:
    """A ring buffer keeps it for the successor; a perf buffer dies with its reader."""
    first = start_worker()
    first.until_ready()
    events(target, 7, 100)
    first.ask()
    events(target, 7, 10)  # unread
    first.kill()
    events(target, 7, 5)
    second = start_worker(first)
    second.until_ready()
    events(target, 7, 1)
    answer = second.ask()
    counts = second.counts()

    assert counts["ring", 7] == 116
    # What its reader had not taken out of the perf buffer is gone with that, and in no number.
    assert counts["perf", 7] == 101
    assert answer.lost_events == {"ring": 0, "perf": 5}


def test_what_a_stopped_worker_has_no_place_for_is_counted_as_lost(target: Target, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.until_ready()
    os.kill(worker.pid, signal.SIGSTOP)
    events(target, 7, 20_000)
    os.kill(worker.pid, signal.SIGCONT)
    lost = worker.told_of_all(20_000)

    assert min(lost.values()) > 0


def test_a_flood_does_not_keep_a_refresh_waiting(target: Target, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.until_ready()
    assert target.process.stdin is not None
    assert target.process.stdout is not None
    target.process.stdin.write("event 7 /x 127.0.0.1 1 300000\n")
    target.process.stdin.flush()
    slowest = 0.0
    seen: list[float] = []
    with selectors.DefaultSelector() as selector:
        selector.register(target.process.stdout, selectors.EVENT_READ)
        while not selector.select(0.2):
            began = time.monotonic()
            counts = worker.counts()
            slowest = max(slowest, time.monotonic() - began)
            seen.append(counts["ring", 7])
    target.process.stdout.readline()
    worker.told_of_all(300_000)

    assert len(seen) > 1
    assert seen == sorted(set(seen)), "events are counted while they come"
    assert slowest < 2


def test_few_events_wake_nobody(target: Target, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.until_ready()
    worker.ask()
    before = worker.status("voluntary_ctxt_switches")
    for _ in range(50):
        events(target, 7, 1)
        time.sleep(0.005)  # in which it could wake up
    worker.ask()

    assert worker.status("voluntary_ctxt_switches") - before < 10
    assert worker.counts()["ring", 7] == 50


@pytest.mark.parametrize("program", [PROGRAM, PERF_ONLY], ids=["both tables", "perf"])
@pytest.mark.parametrize("turn_seconds", [0.02, 0], ids=["at once", "little by little"])
def test_many_events_are_taken_without_being_asked_for(
    turn_seconds: float,
    program: Program,
    target: Target,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several times what the buffers hold, each time more than the quarter at which the reader is woken."""
    monkeypatch.setattr(process, "_TURN_SECONDS", turn_seconds)
    worker = start_worker(program=program)
    worker.until_ready()
    for _ in range(12):
        before = worker.status("voluntary_ctxt_switches")
        events(target, 7, 1500)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while worker.status("voluntary_ctxt_switches") == before:
            assert time.monotonic() < deadline, "nobody woke up"
            time.sleep(0.001)

    assert not any(worker.ask().lost_events.values())
    assert set(worker.counts().values()) == {18_000}


def test_a_table_that_no_metric_names_is_left_alone(target: Target, start_worker: StartWorker) -> None:
    worker = start_worker(program=PERF_ONLY)
    worker.until_ready()
    events(target, 7, 10_000)

    assert worker.ask().lost_events.keys() == {"perf"}


def test_the_last_answer_has_every_event_of_a_target_that_is_gone(target: Target, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.until_ready()
    events(target, 7, 600)
    target.process.kill()
    target.process.wait(20)

    assert worker.ask(b"finish 50").final
    assert [value for value, _ in read_metric_file(worker.file).values()] == [600, 600]


def test_nothing_grows_with_time(target: Target, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.until_ready()

    def serve() -> tuple[int, int]:
        for _ in range(60):
            events(target, 7, 300)
            worker.ask()
        return worker.descriptors(), worker.status("VmRSS")

    serve()
    descriptors, kilobytes = serve()
    later = [serve() for _ in range(3)]

    assert {count for count, _ in later} == {descriptors}
    assert max(size for _, size in later) - kilobytes < 256


def test_the_number_of_label_sets_is_the_requests(target: Target, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.until_ready()
    for code in range(20):
        events(target, code, 1)

    answer = worker.ask(b"refresh 3 8")
    assert (answer.sequence, answer.series, answer.dropped) == (3, 8, {"max_series": 32})
    assert worker.ask(b"refresh 4").series == 40


def test_usage_is_told_with_every_answer(target: Target, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.until_ready()
    for code in range(20):
        events(target, code, 1)
    maps = worker.ask().maps

    assert maps.keys() == {"ring", "perf", "unread"}
    assert (maps["unread"].entries, maps["unread"].max_entries) == (20, 64)
    assert maps["ring"].entries is None
    assert maps["ring"].memory_bytes >= 16 * 4096


def test_runs_go_on_with_a_successor_and_are_none_where_nobody_counts(
    target: Target, start_worker: StartWorker
) -> None:
    first = start_worker()
    first.until_ready()
    events(target, 7, 10)
    assert first.ask().functions == {}
    with run_statistics():
        events(target, 7, 100)
        before = first.ask().functions["on_event"]
        first.kill()
        events(target, 7, 20)
    second = start_worker(first)
    after = second.until_ready().functions["on_event"]

    assert before.runs == 100
    assert after.runs == 120
    assert after.seconds > before.seconds > 0
    assert isinstance(after, FunctionUsage)


def test_held_programs_and_maps_keep_no_probe(target: Target, start_worker: StartWorker) -> None:
    before = target.tell("code")
    worker = start_worker()
    worker.until_ready()
    assert target.tell("code") != before
    worker.kill()
    assert target.tell("code") != before
    close_all(worker.links)
    assert worker.programs
    assert worker.maps

    assert target.tell("code") == before


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()


def test_a_killed_worker_leaves_nothing_behind(target: Target, start_worker: StartWorker) -> None:
    """What it held is in our hands; when we let go, the target is as it was and the descriptors are gone."""
    code, descriptors = target.tell("code"), set(os.listdir("/proc/self/fd"))
    worker = start_worker()
    worker.until_ready()
    events(target, 7, 1000)
    worker.kill()
    worker.channel.close()
    for held in (worker.links, worker.programs, worker.maps):
        close_all(held)

    assert target.tell("code") == code
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_descriptors_come_in_the_images_order(target: Target, start_worker: StartWorker, image: Image) -> None:
    worker = start_worker()
    messages: list[Message] = []
    while not messages or not isinstance(messages[-1], Collected):
        messages.append(worker.hear())
    tags = next(message.tags for message in messages if isinstance(message, Loaded))

    assert [type(message) for message in messages] == [MapsMade, Loaded, Linked, Collected]
    assert [tags[name] for name in (function.name for function in image.functions)] == [
        tag_of(program) for program in worker.programs
    ]


def tag_of(program: int) -> str:
    words: Sequence[str] = Path(f"/proc/self/fdinfo/{program}").read_text().split()
    return words[words.index("prog_tag:") + 1]
