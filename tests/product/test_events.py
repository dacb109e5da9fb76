"""Events are counted as they come; what is lost, how full maps are and what functions cost is told beside them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product.compiled import SOURCE, Target, compile_c, run_target
from tests.product.exporter import Exporter, exporter, free_port, series, until
from tests.product.faults import wait_for_worker, wait_until_gone, worker_of
from tests.worker.run_statistics import run_statistics

pytestmark = pytest.mark.bpf

NAME = f"ev{os.getpid()}"
CONFIG = f"""
programs:
  - name: events
    attachment:
      binary_name: {NAME}
    metrics:
      counters:
        - name: ring_total
          help: By ring buffer
          table: ring
          labels:
            - name: code
              size: 4
              decoders: [{{name: uint}}]
        - name: perf_total
          help: By perf buffer
          table: perf
          labels:
            - name: code
              size: 4
              decoders: [{{name: uint}}]
    uprobes:
      event: on_event
    code: |
      #include <uapi/linux/ptrace.h>
      struct event_t {{ u32 code; u32 padding; u64 more; }};
      BPF_RINGBUF_OUTPUT(ring, 8);
      BPF_PERF_OUTPUT(perf);
      BPF_HASH(unread, u32, u64, 64);
      int on_event(struct pt_regs *ctx) {{
          struct event_t event = {{.code = PT_REGS_PARM1(ctx)}};
          u64 now = 1;
          unread.update(&event.code, &now);
          ring.ringbuf_output(&event, sizeof(event), 0);
          perf.perf_submit(ctx, &event, sizeof(event));
          return 0;
      }}
"""
TABLES = ("ring", "perf")


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(SOURCE, tmp_path_factory.mktemp("compiled") / NAME)


@pytest.fixture
def target(binary: Path) -> Iterator[Target]:
    with run_target(binary) as running:
        yield running


@pytest.fixture
def running(target: Target) -> Iterator[Exporter]:
    with exporter(CONFIG) as started:
        started.wait_attached("events", target.pid)
        yield started


def events(target: Target, code: int, times: int) -> None:
    target.tell(f"event {code} /x 127.0.0.1 1 {times}")


def counted(running: Exporter, table: str) -> int:
    return int(running.total(f"{table}_total"))


def lost(running: Exporter, table: str) -> int | None:
    value = running.value("lost_events_total", name="events", map=table)
    return None if value is None else int(value)


def test_a_scrape_has_every_event_that_there_was(target: Target, running: Exporter) -> None:
    events(target, 7, 100)
    events(target, 8, 20)
    samples = running.scrape()

    for table in TABLES:
        assert samples[series(f"{table}_total", code=7, pid=target.pid)] == 100
        assert samples[series(f"{table}_total", code=8, pid=target.pid)] == 20
        assert samples[series("lost_events_total", name="events", map=table)] == 0


def test_counted_and_lost_are_all_there_was_over_a_killed_and_a_stopped_worker(
    target: Target, running: Exporter
) -> None:
    events(target, 7, 1000)
    running.scrape()
    worker = wait_for_worker(running, target.pid)
    os.kill(worker, signal.SIGKILL)
    wait_until_gone({worker})  # until then events go into a perf buffer that nobody will read
    events(target, 7, 500)
    worker = wait_for_worker(running, target.pid, after=worker)
    until(lambda: counted(running, "ring") == 1500, "the successor has read what its predecessor had not")
    os.kill(worker, signal.SIGSTOP)
    events(target, 7, 20_000)
    os.kill(worker, signal.SIGCONT)

    for table in TABLES:
        until(
            lambda table=table: counted(running, table) + (lost(running, table) or 0) == 21_500,  # type: ignore[misc]
            f"{table}: all events",
        )
        assert (lost(running, table) or 0) > 0


def test_what_a_target_did_last_is_counted(target: Target, running: Exporter) -> None:
    events(target, 7, 300)
    target.process.kill()
    target.process.wait(20)
    until(lambda: running.total("targets", state="exited") == 1, "exited")

    assert {counted(running, table) for table in TABLES} == {300}


def test_maps_tell_how_full_they_are_and_functions_what_they_cost(target: Target, running: Exporter) -> None:
    with run_statistics():
        for code in range(30):
            events(target, code, 10)
        samples = running.scrape()
        assert samples[series("map_entries", name="events", map="unread")] == 30
        assert samples[series("map_max_entries", name="events", map="unread")] == 64
        assert samples[series("map_memory_bytes", name="events", map="ring")] >= 8 * 4096
        assert series("map_entries", name="events", map="ring") not in samples
        assert samples[series("program_runs_total", name="events", function="on_event")] == 300
        seconds = samples[series("program_run_seconds_total", name="events", function="on_event")]

        os.kill(wait_for_worker(running, target.pid), signal.SIGKILL)
        events(target, 1, 50)
        until(lambda: runs(running) == 350, "a successor goes on")
        target.process.kill()
        target.process.wait(20)
        until(lambda: running.total("targets", state="exited") == 1, "exited")

    assert runs(running) == 350
    assert running.total("program_run_seconds_total") >= seconds > 0
    assert running.values("map_memory_bytes") == {}


def runs(running: Exporter) -> int:
    return int(running.total("program_runs_total", function="on_event"))


JVM_CONFIG = f"""
programs:
  - name: methods
    attachment:
      cmdline: 'registry{os.getpid()}'
    metrics:
      counters:
        - name: methods_total
          help: Methods entered
          table: entered
    usdt:
      hotspot:method__entry: on_entry
    code: |
      #include <uapi/linux/ptrace.h>
      BPF_ARRAY(entered, u64, 1);
      int on_entry(struct pt_regs *ctx) {{ entered.increment(0); return 0; }}
"""


@contextlib.contextmanager
def jvm(port: int, *options: str) -> Iterator[int]:
    """Run a JVM with a registry of remote objects, which is in every one; whoever connects has it enter methods."""
    command = ["java", *options, f"-Dname=registry{os.getpid()}", "-m", "java.rmi/sun.rmi.registry.RegistryImpl"]
    process = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait(20)


@pytest.mark.skipif(shutil.which("java") is None, reason="needs java")
def test_a_jvm_that_does_not_fire_the_probe_waits_and_one_that_does_is_counted() -> None:
    port = free_port()
    with (
        jvm(free_port()) as silent,
        jvm(port, "-XX:+DTraceMethodProbes") as firing,
        exporter(JVM_CONFIG) as running,
    ):
        running.wait_attached("methods", firing)

        def entered() -> bool:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 20):
                pass
            return (running.value("methods_total", pid=firing) or 0) > 0

        until(entered, "methods are counted")
        until(lambda: running.value("targets", name="methods", state="waiting") == 1, "the other one waits")

        assert running.value("enabled_programs", name="methods", pid=silent) is None
        assert running.log.count("start the JVM with -XX:+DTraceMethodProbes") == 1
        assert worker_of(running, silent) is None
