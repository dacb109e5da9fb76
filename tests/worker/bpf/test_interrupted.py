"""A process that is told to end while it makes and closes links leaves none of the kernel's uprobes behind."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.image import Probe
from ebpf_userspace_exporter.worker.kernel import uninterrupted

if TYPE_CHECKING:
    from tests.worker.bpf.conftest import Binary, Counter

pytestmark = pytest.mark.bpf

ROUNDS = 60


def test_uprobes_are_not_left_behind_by_processes_that_end_while_they_attach(
    binary: "Binary", load_counter: Callable[[bool], "Counter"], tmp_path: Path
) -> None:
    """What was left behind would keep its semaphore, and refuse whoever comes with another: the last attach here."""
    path = str(shutil.copy2(binary.path, tmp_path / "alone"))  # a uprobe left behind stays until its file goes
    counter, (offset, semaphore) = load_counter(True), binary.usdt
    moments = random.Random(5)
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
        endings = []
        for _ in range(ROUNDS):
            child = os.fork()
            if child == 0:
                _attach_for_ever(counter, path, Probe("f0", 0, offset, semaphore, is_return=False), target.pid)
            time.sleep(moments.uniform(0.01, 0.06))  # any moment will do
            os.kill(child, signal.SIGTERM)
            endings.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        without_semaphore = Probe("f0", 0, offset, 0, is_return=False)
        for link in attach(counter.programs, [without_semaphore], [path], target.pid, uprobe_multi=True):
            os.close(link)
        target.kill()

    assert endings == [-signal.SIGTERM] * ROUNDS


def _attach_for_ever(counter: "Counter", path: str, probe: Probe, pid: int) -> None:
    try:
        while True:
            with uninterrupted():
                for link in attach(counter.programs, [probe], [path], pid, uprobe_multi=True):
                    os.close(link)
    finally:
        os._exit(1)
