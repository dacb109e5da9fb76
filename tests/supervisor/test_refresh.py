"""Rounds of questions; time is an argument, nobody is asked for real."""

import socket
from collections.abc import Iterable

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.control import Client
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase, Worker
from ebpf_userspace_exporter.supervisor.refresh import Refresher
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target

PROGRAM = Program(name="p", attachment=Selector(binary_name=("x",)), code="")


class Scene:
    """Entries whose workers note what they are asked, and a list of what clients were told."""

    def __init__(self, count: int) -> None:
        self.entries = [_running(pid) for pid in range(count)]
        self.asked: list[tuple[int, int]] = []
        self.told: list[tuple[int, int, int]] = []
        self.refresher = Refresher(self._ask, self._finish)

    def request(self, now: float) -> None:
        with socket.socket() as channel:
            self.refresher.request(Client(channel, 0.0), now + 1.0)
        self.refresher.advance(self.entries, now)

    def answer(self, pid: int, sequence: int, now: float) -> None:
        worker = self.entries[pid].worker
        assert worker is not None
        worker.answered, worker.asked_at = sequence, None
        self.refresher.advance(self.entries, now)

    def _ask(self, entry: Entry, sequence: int, now: float) -> bool:
        if entry.worker is None or entry.worker.asked_at is not None:
            return False
        entry.worker.asked_at = now
        self.asked.append((entry.slot.pid, sequence))
        return True

    def _finish(self, clients: Iterable[Client], fresh: int, stale: int) -> None:
        self.told.append((len(list(clients)), fresh, stale))


def _running(pid: int) -> Entry:
    entry = Entry(Target(Slot("p", pid), "d", 1, ExecMark(1, 2, 3, 4)), PROGRAM, -1, 0.0, Phase.RUNNING)
    entry.worker = Worker(1000 + pid, None, 0.0)
    return entry


def test_all_fresh_when_all_have_answered() -> None:
    scene = Scene(2)
    scene.request(10.0)
    scene.answer(0, 1, 10.1)
    assert scene.told == []
    scene.answer(1, 1, 10.2)

    assert scene.told == [(1, 2, 0)]


def test_without_workers_the_answer_is_immediate() -> None:
    scene = Scene(0)
    scene.request(10.0)

    assert scene.told == [(1, 0, 0)]


def test_one_that_does_not_answer_is_stale_at_the_deadline() -> None:
    scene = Scene(2)
    scene.request(10.0)
    scene.answer(0, 1, 10.1)
    assert scene.refresher.next_deadline() == 11.0
    scene.refresher.advance(scene.entries, 11.0)

    assert scene.told == [(1, 1, 1)]


def test_one_that_missed_a_deadline_is_not_waited_for_again() -> None:
    scene = Scene(2)
    scene.request(10.0)
    scene.answer(0, 1, 10.1)
    scene.refresher.advance(scene.entries, 11.0)
    scene.request(12.0)
    scene.answer(0, 2, 12.1)

    assert scene.told == [(1, 1, 1), (1, 1, 1)]
    assert scene.asked == [(0, 1), (1, 1), (0, 2)]


def test_one_that_answers_late_is_asked_again() -> None:
    scene = Scene(1)
    scene.request(10.0)
    scene.refresher.advance(scene.entries, 11.0)
    scene.answer(0, 1, 11.5)
    scene.request(12.0)
    scene.answer(0, 2, 12.1)

    assert scene.told == [(1, 0, 1), (1, 1, 0)]


def test_who_comes_during_a_round_gets_the_next() -> None:
    """A worker may have read its maps before the second scrape began."""
    scene = Scene(1)
    scene.request(10.0)
    scene.request(10.1)
    scene.request(10.2)
    scene.answer(0, 1, 10.3)
    assert scene.told == [(1, 1, 0)]
    scene.answer(0, 2, 10.4)

    assert scene.told == [(1, 1, 0), (2, 1, 0)]


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        pytest.param(Phase.EXITED, (1, 1, 0), id="exited: its last values are in"),
        pytest.param(Phase.WAITING, (1, 0, 1), id="worker died"),
    ],
)
def test_worker_that_leaves_during_a_round(phase: Phase, expected: tuple[int, int, int]) -> None:
    scene = Scene(1)
    scene.request(10.0)
    scene.entries[0].phase, scene.entries[0].worker = phase, None
    scene.refresher.advance(scene.entries, 10.5)
    scene.refresher.advance(scene.entries, 11.0)

    assert scene.told == [expected]


def test_dead_worker_whose_probes_still_count_is_stale() -> None:
    scene = Scene(1)
    scene.entries[0].phase, scene.entries[0].worker = Phase.WAITING, None
    scene.entries[0].holdings.links = [77]
    scene.request(10.0)

    assert scene.told == [(1, 0, 1)]
