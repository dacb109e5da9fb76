"""Waits for a mutex, beside the account of the program that waits."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.examples.agreement import increase, promtool_says
from tests.product.compiled import Target, run_target
from tests.product.exporter import EXAMPLES, PREFIX, Exporter, Samples, exporter, series
from tests.product.faults import ATTACH_IDS, ATTACH_MODES, fresh

pytestmark = pytest.mark.bpf

FOLDER = EXAMPLES / "mutex"
NAME = "shop-threads"


@dataclass(frozen=True, slots=True)
class Own:
    """What the program says: all locks, and by function how often and how long it waited."""

    locks: int
    waits: dict[str, int]
    nanoseconds: dict[str, int]


@dataclass(frozen=True, slots=True)
class Watched:
    """How much the program's account and the exporter's samples rose."""

    running: Exporter
    pid: int
    before: Own
    after: Own
    counted: Samples

    def by_caller(self, metric: str) -> dict[str, float]:
        of_process = ("pid", str(self.pid))
        return {
            dict(labels)["caller"]: value
            for (name, labels), value in self.counted.items()
            if name == PREFIX + metric and of_process in labels
        }


@pytest.fixture(scope="module", params=ATTACH_MODES, ids=ATTACH_IDS)
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    binary = tmp_path_factory.mktemp("mutex") / NAME
    build(FOLDER / f"{NAME}.c", binary)
    with run_target(binary) as target, exporter(FOLDER / "config.yaml", environment=request.param) as running:
        running.wait_attached("mutex", target.pid)
        before, counted_before = own(target, "1 1 1"), fresh(running)
        own(target, "1000 20 0")
        after = own(target, "0 3 7")
        yield Watched(running, target.pid, before, after, increase(counted_before, fresh(running)))


def test_locks_are_those_of_the_programs_own_count(watched: Watched) -> None:
    assert watched.counted[series("mutex_locks_total", pid=watched.pid)] == watched.after.locks - watched.before.locks


def test_waits_by_caller_are_those_of_the_programs_own_count(watched: Watched) -> None:
    waits = {name: watched.after.waits[name] - watched.before.waits[name] for name in watched.after.waits}

    assert waits == {"take_order": 23, "take_return": 7}
    assert watched.by_caller("mutex_wait_seconds_count") == waits


def test_waits_are_as_long_as_the_program_measured_without_what_lies_around_them(watched: Watched) -> None:
    seconds = watched.by_caller("mutex_wait_seconds_sum")

    for name, nanoseconds in watched.after.nanoseconds.items():
        assert 0 < seconds[name] <= (nanoseconds - watched.before.nanoseconds[name]) / 1e9


def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    assert promtool_says(watched.running) == []


def own(target: Target, line: str) -> Own:
    """Have it take the mutex; return its account."""
    locks, orders, orders_nanoseconds, returns, returns_nanoseconds = map(int, target.tell(line).split())
    return Own(
        locks,
        {"take_order": orders, "take_return": returns},
        {"take_order": orders_nanoseconds, "take_return": returns_nanoseconds},
    )


def build(source: Path, binary: Path) -> None:
    """Compile as the file itself says."""
    subprocess.run(["gcc", "-O2", "-pthread", "-o", binary, source], check=True, timeout=120)
