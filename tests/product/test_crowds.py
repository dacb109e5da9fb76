"""Many targets at once: they are taken up while the supervisor goes on with everything else."""

import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.product.compiled import SOURCE, compile_c
from tests.product.exporter import start, until

pytestmark = pytest.mark.bpf

TARGETS = 30
CONFIG = """
programs:
  - name: calls
    metrics: {counters: [{name: calls_total, help: Calls, table: counts}]}
    uprobes: {event: on_event}
    attachment: {binary_name: in-a-crowd}
    code: |
      #include <uapi/linux/ptrace.h>
      BPF_ARRAY(counts, u64, 1);
      int on_event(struct pt_regs *ctx) { counts.increment(0); return 0; }
"""
# The exporter with turns that are over when one thing has been done.
SHORT_TURNS = """
import runpy, sys
from ebpf_userspace_exporter.supervisor import loop
loop.TURN_SECONDS = 0.0
sys.argv = sys.argv[3:]
runpy.run_module("ebpf_userspace_exporter", run_name="__main__")
"""


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[list[int]]:
    binary = compile_c(SOURCE, tmp_path / "in-a-crowd")
    with ExitStack() as stack:
        processes = [subprocess.Popen([binary], stdin=subprocess.PIPE) for _ in range(TARGETS)]
        for process in processes:
            stack.enter_context(process)
            stack.callback(process.kill)
        yield [process.pid for process in processes]


def states(control: Path) -> Counter[str]:
    """Return how many targets are in which state, as the supervisor says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.connect(str(control))
        channel.sendall(b"status\n")
        document = json.loads(b"".join(iter(lambda: channel.recv(1 << 16), b"")))
    return Counter(target["state"] for target in document["targets"])


def test_the_supervisor_answers_while_it_starts_many_workers(tmp_path: Path, targets: list[int]) -> None:
    running = start(tmp_path, CONFIG, through=(sys.executable, "-c", SHORT_TURNS))
    control = running.state_dir / "control.sock"
    seen: list[Counter[str]] = []

    def all_run() -> bool:
        assert running.process.poll() is None, running.log
        seen.append(states(control))
        return seen[-1]["running"] == len(targets)

    try:
        until(control.exists, "the supervisor listens")
        until(all_run, "all are attached", pause=0.0)
    finally:
        running.stop()

    assert any(found["starting"] > 1 and found["waiting"] for found in seen)
