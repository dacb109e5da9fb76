"""Totals of events are the program's own, never fall, outlive worker and process, and cost nothing while it is idle."""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.file_names import metric_file_name
from ebpf_userspace_exporter.worker.metric_file import read_metric_file
from tests.product.compiled import SOURCE, Target, compile_c, run_target
from tests.product.exporter import Exporter, exporter, series, until
from tests.product.faults import fresh, is_alive, scraping, wait_for_worker
from tests.product.lifecycle import QUICK, is_stopped

pytestmark = pytest.mark.bpf

NAME = f"totals{os.getpid()}"
TABLES = ("ring", "perf")
EVENTS_OF_A_PAGE = 4096 // 64  # 56 bytes each, and eight that the ring puts before them
PER_WAKE = EVENTS_OF_A_PAGE // 3  # more than the quarter at which a reader is woken
QUIET_SECONDS = 3.0


def config(ring_pages: int, target_labels: str = "") -> str:
    """Return a config with the same events in a ring of so many pages and in perf's buffers."""
    labels = """[{name: code, size: 4, decoders: [{name: uint}]},
          {name: address, size: 4, decoders: [{name: inet_ip}]},
          {name: site, size: 32, padding: 8, decoders: [{name: string}, {name: regexp, regexps: ["/srv/(.+?)/"]}]}]"""
    return f"""
programs:
  - name: events
    attachment: {{binary_name: {NAME}}}
    {target_labels}
    metrics:
      counters:
        - {{name: ring_total, table: ring, labels: {labels}}}
        - {{name: perf_total, table: perf, labels: {labels}}}
    uprobes: {{event: on_event}}
    code: |
      #include <uapi/linux/ptrace.h>
      struct event_t {{ u32 code; u8 address[4]; char path[32]; u64 amount; u64 more; }};
      BPF_RINGBUF_OUTPUT(ring, {ring_pages});
      BPF_PERF_OUTPUT(perf);
      int on_event(struct pt_regs *ctx) {{
          struct event_t event = {{.code = PT_REGS_PARM1(ctx), .amount = PT_REGS_PARM4(ctx)}};
          bpf_probe_read_user_str(event.path, sizeof event.path, (void *)PT_REGS_PARM2(ctx));
          bpf_probe_read_user(event.address, sizeof event.address, (void *)PT_REGS_PARM3(ctx));
          ring.ringbuf_output(&event, sizeof event, 0);
          perf.perf_submit(ctx, &event, sizeof event);
          return 0;
      }}
"""


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(SOURCE, tmp_path_factory.mktemp("totals") / NAME)


@pytest.fixture
def target(binary: Path) -> Iterator[Target]:
    with run_target(binary) as running:
        yield running


@contextmanager
def counting(target: Target, ring_pages: int) -> Iterator[Exporter]:
    with exporter(config(ring_pages)) as running:
        running.wait_attached("events", target.pid)
        yield running


def have_events(target: Target, times: int, code: int = 7) -> None:
    target.tell(f"event {code} /srv/shop/ 10.0.0.1 1 {times}")


def counted(running: Exporter, table: str) -> int:
    return int(running.total(f"{table}_total"))


def lost(running: Exporter, table: str) -> int:
    return int(running.total("lost_events_total", map=table))


def test_events_are_counted_by_their_labels_as_often_as_the_program_had_them(target: Target) -> None:
    own: Counter[tuple[int, str, str]] = Counter()
    with counting(target, ring_pages=16) as running:
        for times in range(1, 40):
            for code, site, address in ((1, "shop", "10.0.0.1"), (2, "shop", "192.0.2.7"), (1, "blog", "10.0.0.1")):
                target.tell(f"event {code} /srv/{site}/index.html {address} 1 {times}")
                own[code, site, address] += times
            target.tell("event 1 /etc/passwd 10.0.0.1 1 1")  # which no pattern wants
            samples = fresh(running)

        for table in TABLES:
            name, _ = series(f"{table}_total")
            assert {key: value for key, value in samples.items() if key[0] == name} == {
                series(f"{table}_total", code=code, site=site, address=address, pid=target.pid): times
                for (code, site, address), times in own.items()
            }
        assert (lost(running, "ring"), lost(running, "perf")) == (0, 0)
        assert running.total("decode_errors_total") == 0


def test_a_small_ring_that_nobody_empties_holds_what_it_can_and_says_how_many_it_could_not(target: Target) -> None:
    with counting(target, ring_pages=1) as running:
        worker = wait_for_worker(running, target.pid)
        os.kill(worker, signal.SIGSTOP)
        until(lambda: is_stopped(worker), "stopped")
        have_events(target, 5000)
        os.kill(worker, signal.SIGCONT)

        until(lambda: counted(running, "ring") > 0, "the worker goes on")
        fresh(running)
        assert (counted(running, "ring"), lost(running, "ring")) == (EVENTS_OF_A_PAGE - 1, 5000 - EVENTS_OF_A_PAGE + 1)
        assert counted(running, "perf") + lost(running, "perf") == 5000
        assert lost(running, "perf") > 0

        have_events(target, PER_WAKE)
        assert counted(running, "ring") == EVENTS_OF_A_PAGE - 1 + PER_WAKE


def test_events_that_were_taken_while_nobody_scraped_outlive_the_worker(target: Target) -> None:
    with counting(target, ring_pages=1) as running:
        worker = wait_for_worker(running, target.pid)
        path = running.state_dir / metric_file_name("counter", "events", target.pid)
        for turn in range(1, 31):
            have_events(target, PER_WAKE)
            woken_for = turn * PER_WAKE - EVENTS_OF_A_PAGE // 4
            # Sooner than the supervisor asks a worker that nobody scrapes whether it is there.
            until(lambda least=woken_for: written(path, "ring") >= least, "written", seconds=30)  # type: ignore[misc]
        until(lambda: at_rest(worker), "asleep")
        os.kill(worker, signal.SIGKILL)
        have_events(target, PER_WAKE)  # the next worker finds them in the ring
        wait_for_worker(running, target.pid, after=worker)

        assert counted(running, "ring") == 31 * PER_WAKE
        assert counted(running, "perf") >= 30 * PER_WAKE - EVENTS_OF_A_PAGE // 4
        assert lost(running, "ring") == 0


def written(path: Path, table: str) -> int:
    """Return the sum of a table's series in a metric file."""
    return int(sum(value for key, (value, _) in read_metric_file(path).items() if f"{table}_total" in key))


def test_a_total_never_falls_and_what_is_not_in_it_was_lost_whoever_is_killed_meanwhile(target: Target) -> None:
    own = 0
    with counting(target, ring_pages=1) as running, scraping(running, "ring_total"):
        worker = wait_for_worker(running, target.pid)
        for turn in range(6):
            for _ in range(100):
                have_events(target, PER_WAKE)
                own += PER_WAKE
            if turn % 2:
                worker = wait_for_worker(running, target.pid, after=worker)
            else:
                fresh(running)  # so that it has nothing in its hands
                os.kill(worker, signal.SIGKILL)

        assert counted(running, "ring") + lost(running, "ring") == own
        assert counted(running, "ring") > 0


def test_where_processes_share_a_series_its_total_is_that_of_all_that_ever_were(binary: Path) -> None:
    own: Counter[int] = Counter()
    with exporter(config(16, "target_labels: {service: shop}"), *QUICK) as running, scraping(running, "ring_total"):
        for number in range(1, 5):
            with run_target(binary) as target:
                running.wait_attached("events", target.pid)
                have_events(target, 10 * number, code=number % 2)
                own[number % 2] += 10 * number
                target.process.communicate(timeout=20)
            until(lambda pid=target.pid: not left_of(running, pid), "folded")  # type: ignore[misc]

        samples = fresh(running)
        labels = {"service": "shop", "site": "shop", "address": "10.0.0.1"}
        for table in TABLES:
            for code, times in own.items():
                assert samples[series(f"{table}_total", code=code, **labels)] == times
        assert lost(running, "ring") == lost(running, "perf") == 0


def left_of(running: Exporter, pid: int) -> list[Path]:
    """Return the files of one target, and those that are not folded yet."""
    return [path for pattern in (f"*_{pid}.db", "*_retired-*") for path in running.state_dir.glob(pattern)]


def test_an_idle_worker_does_not_wake_up_nor_do_few_events_wake_it(target: Target) -> None:
    with counting(target, ring_pages=1) as running:
        worker = wait_for_worker(running, target.pid)
        have_events(target, 1)
        before = until(lambda: at_rest(worker), "asleep")
        have_events(target, 8)
        with pytest.raises(AssertionError, match="not within"):
            until(lambda: switches(worker) != before, "woken", seconds=QUIET_SECONDS)

        assert is_alive(worker)
        assert counted(running, "ring") == counted(running, "perf") == 9
        assert switches(worker) != before


def switches(pid: int) -> tuple[int, ...]:
    """Return how often a process gave up a CPU, by itself and against its will: not at all while it sleeps."""
    status = Path(f"/proc/{pid}/status").read_text()
    return tuple(
        int(number) for number in re.findall(r"^(?:non)?voluntary_ctxt_switches:\t(\d+)", status, re.MULTILINE)
    )


def at_rest(pid: int) -> tuple[int, ...] | None:
    """Return the switches of a process if they stay the same for a while."""
    before = switches(pid)
    time.sleep(0.1)
    return before if switches(pid) == before else None
