"""Many workers that detach: nobody waits for them, and nothing of them stays."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product.compiled import compile_c
from tests.product.exporter import Exporter, exporter, series, until
from tests.product.faults import ATTACH_IDS, ATTACH_MODES, fresh, is_alive, wait_until_gone
from tests.product.lifecycle import patched_probes

pytestmark = pytest.mark.bpf

TARGETS = 20
SOURCE = """
#include <sys/sdt.h>
#include <unistd.h>
int main(void) { DTRACE_PROBE(app, one); DTRACE_PROBE(app, two); for (;;) pause(); }
"""


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(SOURCE, tmp_path_factory.mktemp("many") / f"many-{os.getpid()}")


@pytest.fixture
def pids(binary: Path) -> Iterator[list[int]]:
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen([binary])) for _ in range(TARGETS)]
        for process in processes:
            stack.callback(process.kill)
        yield [process.pid for process in processes]


def config(name: str, binary: Path) -> str:
    return f"""
programs:
  - name: {name}
    attachment: {{binary_name: {binary.name}}}
    usdt: {{"app:one": on_one, "app:two": on_two}}
    metrics: {{counters: [{{name: {name}_total, table: counts}}]}}
    code: |
      BPF_ARRAY(counts, u64, 1);
      int on_one(void *ctx) {{ counts.increment(0); return 0; }}
      int on_two(void *ctx) {{ counts.increment(0); return 0; }}
"""


def enabled(running: Exporter, name: str) -> int:
    return len(running.values("enabled_programs", name=name))


@pytest.mark.parametrize("attach", ATTACH_MODES, ids=ATTACH_IDS)
def test_scrapes_are_answered_while_workers_have_not_detached_yet(
    binary: Path, pids: list[int], attach: dict[str, str]
) -> None:
    with exporter(config("many", binary), environment=attach) as running:
        running.wait_attached("many", *pids)
        workers = running.children("exporter-worker")
        assert len(workers) == TARGETS
        assert all(patched_probes(pid) == 2 for pid in pids)
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)

        running.config.write_text(config("other", binary).replace(binary.name, "nobody"))
        running.process.send_signal(signal.SIGHUP)
        until(lambda: enabled(running, "many") == 0, f"all let go; log:\n{running.log}")
        answered = fresh(running)
        still_there = [worker for worker in workers if is_alive(worker)]
        for worker in workers:
            os.kill(worker, signal.SIGCONT)

        assert answered[series("refresh_successful")] == 1
        assert still_there == workers
        wait_until_gone(set(workers))
        until(lambda: not any(map(patched_probes, pids)), "no breakpoint is left")
