"""A target without the probes waits, quietly, and is attached when it has them."""

import os
import time
from pathlib import Path

import pytest

from tests.product.exporter import Exporter, exporter, until
from tests.product.faults import worker_of
from tests.product.jvm import HAS_JAVA, compile_shop, jvm
from tests.product.lifecycle import series_of, state
from tests.product.selecting import specimen

pytestmark = pytest.mark.bpf

NAME = f"wait{os.getpid()}"
RESCAN = ("--rescan-interval", "1s")
RESCANS_SECONDS = 4.0
needs_java = pytest.mark.skipif(not HAS_JAVA, reason="needs a JDK")


def counting(attachment: str, probe: str) -> str:
    """Return a config that counts how often a probe, `usdt: {…}` or `uprobes: {…}`, is passed."""
    return f"""
programs:
  - name: passes
    attachment: {attachment}
    {probe}
    metrics:
      counters: [{{name: passes_total, table: passes}}]
    code: |
      BPF_ARRAY(passes, u64, 1);
      int on_pass(void *ctx) {{ passes.increment(0); return 0; }}
"""


def passes(running: Exporter, pid: int) -> int | None:
    """Return how often the process has passed the probe; None without a series."""
    value = running.value("passes_total", pid=pid)
    return None if value is None else int(value)


def failures(running: Exporter, reason: str) -> int:
    return int(running.value("attach_failures_total", name="passes", reason=reason) or 0)


def wait_waiting(running: Exporter, number: int) -> None:
    until(lambda: state(running, "waiting", "passes") == number, f"{number} waiting; log:\n{running.log}")


def test_a_target_without_the_probe_is_counted_and_told_once_however_often_it_is_looked_at() -> None:
    text = counting(f"{{binary_name: {NAME}}}", 'usdt: {"python:no__such__probe": on_pass}')
    with specimen(name=NAME) as target, exporter(text, *RESCAN) as running:
        wait_waiting(running, 1)
        ends = time.monotonic() + RESCANS_SECONDS
        while time.monotonic() < ends:
            assert failures(running, "probe_not_found") == 1
            assert state(running, "waiting", "passes") == 1
            assert running.children("exporter-build") == []

        target.do("import bz2")
        until(lambda: failures(running, "probe_not_found") == 2, "searched again, as there is more to search")

        assert state(running, "waiting", "passes") == 1
        [line] = [line for line in running.log.splitlines() if "program=passes" in line]
        assert "level=warning" in line
        assert f" pid={target.pid} reason=probe_not_found " in line
        assert running.get("/-/ready").status == 200


def test_a_function_of_a_library_that_is_mapped_late_is_counted_from_then_on() -> None:
    text = counting(f"{{binary_name: {NAME}}}", 'uprobes: {"libbz2:BZ2_bzCompressInit": on_pass}')
    with specimen(name=NAME) as loading, specimen(name=NAME) as other, exporter(text, *RESCAN) as running:
        wait_waiting(running, 2)
        assert failures(running, "file_not_found") == 2
        assert worker_of(running, loading.pid) is None

        loading.do("import bz2")
        running.wait_attached("passes", loading.pid)
        loading.do("for _ in range(7): bz2.compress(b'')")

        assert passes(running, loading.pid) == 7
        assert (state(running, "running", "passes"), state(running, "waiting", "passes")) == (1, 1)
        assert series_of(running, other.pid) == []
        assert failures(running, "file_not_found") == 2
        assert running.log.count("waiting for its probes") == 1


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shop(tmp_path_factory.mktemp("shop"))


@needs_java
def test_a_jvm_that_was_not_told_to_fire_the_probe_waits_and_one_that_was_is_counted(shop: Path) -> None:
    text = counting(f"{{cmdline: 'Shop {NAME}$'}}", 'usdt: {"hotspot:monitor__contended__enter": on_pass}')
    with (
        jvm(shop, NAME) as silent,
        jvm(shop, NAME, "-XX:+DTraceMonitorProbes") as firing,
        exporter(text, *RESCAN) as running,
    ):
        running.wait_attached("passes", firing.pid)
        silent.tell("contend 5")
        firing.tell("contend 7")
        wait_waiting(running, 1)

        assert passes(running, firing.pid) == 7
        assert series_of(running, silent.pid) == []
        assert failures(running, "probe_disabled") == 1
        assert "start the JVM with -XX:+DTraceMonitorProbes" in running.log
        assert running.log.count("reason=probe_disabled") == 1


@needs_java
def test_collections_of_a_jvm_equal_its_own_count(shop: Path) -> None:
    text = counting(f"{{cmdline: 'Shop {NAME}$'}}", 'usdt: {"hotspot:gc__begin": on_pass}')
    with jvm(shop, NAME, "-Xmx32m") as target, exporter(text) as running:
        running.wait_attached("passes", target.pid)
        before = int(target.tell("gc 0"))

        after = int(target.tell("gc 9"))

        assert passes(running, target.pid) == after - before >= 9
