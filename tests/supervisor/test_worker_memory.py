"""Memory of real processes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor.worker_memory import MOST_AT_ONCE, WorkerMemory

SOME = 8


@pytest.fixture
def pids() -> Iterator[list[int]]:
    started = [subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) for _ in range(MOST_AT_ONCE + SOME)]
    yield [each.pid for each in started]
    for each in started:
        each.communicate()


def test_own_memory_is_less_than_all_that_is_resident() -> None:
    [size] = WorkerMemory().measure([os.getpid()]).values()

    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert 0 < size < resident


def test_few_are_measured_at_once_and_all_in_the_end(pids: list[int]) -> None:
    memory = WorkerMemory()

    assert len(memory.measure(pids)) == MOST_AT_ONCE
    assert memory.measure(pids).keys() == set(pids)


def test_who_has_ended_is_left_out(pids: list[int]) -> None:
    memory = WorkerMemory()
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()

    assert memory.measure([pids[0], ended.pid]).keys() == {pids[0]}
    assert memory.measure([pids[1]]).keys() == {pids[1]}
