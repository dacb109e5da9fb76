"""Which processes are healed, once each; that healing heals is in tests/worker/bpf/test_heal.py."""

import os
from collections.abc import Iterator

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase
from ebpf_userspace_exporter.supervisor.healing import HEAL_SECONDS, Healer
from ebpf_userspace_exporter.supervisor.processes import Process
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target
from ebpf_userspace_exporter.worker.image import Image

NOW = 1000.0
TARGET = 900_000_001  # beyond every real pid: healers find nobody


def process(pid: int, *, start_ticks: int = 1, stack: int = 5) -> Process:
    return Process(pid, 1, "x", "S", 1, start_ticks, stack, arg_start=6)


def attached(pid: int = TARGET, *, links: bool = True) -> Entry:
    program = Program(name="p", attachment=Selector(binary_name=("x",)), code="")
    made = Entry(Target(Slot("p", pid), "d", 1, ExecMark(5, 6, 3, 4)), program, -1, 0.0, Phase.RUNNING)
    made.holdings.image = Image((), (), (), ())
    made.holdings.links = [77] if links else []
    return made


@pytest.fixture
def healer() -> Iterator[Healer]:
    made = Healer()
    yield made
    made.kill()
    if made._child is not None:
        os.waitpid(made._child, 0)


def heals(healer: Healer, *processes: Process, entries: tuple[Entry, ...] = (attached(),), now: float = NOW) -> bool:
    """Have it look; return whether it has begun to heal somebody, and wait until that is through."""
    healer.look({each.pid: each for each in processes}, entries, now)
    child = healer._child
    if child is None:
        return False
    assert not healer.is_idle
    os.waitpid(child, 0)
    assert healer.on_exit(child)
    assert healer.is_idle
    return True


def test_forked_child_of_a_target_is_healed_once(healer: Healer) -> None:
    child = process(TARGET + 1)

    assert heals(healer, process(TARGET), child)
    assert not heals(healer, process(TARGET), child)


def test_reused_pid_is_healed_anew(healer: Healer) -> None:
    assert heals(healer, process(TARGET + 1, start_ticks=10))
    assert heals(healer, process(TARGET + 1, start_ticks=20))


@pytest.mark.parametrize(
    ("found", "entry"),
    [
        pytest.param(process(TARGET), attached(), id="the target itself"),
        pytest.param(process(TARGET + 1, stack=7), attached(), id="another memory"),
        pytest.param(process(TARGET + 1, stack=0), attached(), id="layout unknown"),
        pytest.param(process(TARGET + 1), attached(links=False), id="nothing attached"),
    ],
)
def test_nobody_else_is_healed(healer: Healer, found: Process, entry: Entry) -> None:
    assert not heals(healer, found, entries=(entry,))


def test_what_is_forgotten_does_not_grow_with_children_that_come_and_go(healer: Healer) -> None:
    for pid in range(5):
        assert heals(healer, process(TARGET + 1 + pid))

    assert len(healer._done) == 1


def test_one_healer_at_a_time_and_a_hung_one_is_killed(healer: Healer) -> None:
    table = {TARGET + 1: process(TARGET + 1)}
    healer.look(table, [attached()], NOW)
    first = healer._child
    assert first is not None
    healer.look({TARGET + 2: process(TARGET + 2)}, [attached()], NOW + 1)
    assert healer._child == first
    healer.look({}, [attached()], NOW + HEAL_SECONDS)
    os.waitpid(first, 0)

    assert healer.on_exit(first)
    assert heals(healer, process(TARGET + 2))


def test_child_that_cannot_be_forked_is_forked_at_the_next_look(
    healer: Healer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        assert not heals(healer, process(TARGET + 1))

    assert heals(healer, process(TARGET + 1))


def test_other_children_are_none_of_its(healer: Healer) -> None:
    assert not healer.on_exit(12345)
