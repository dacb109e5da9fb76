"""Reads, writes and connects of a program, beside its own account."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.examples.agreement import increase, promtool_says
from tests.product.compiled import run_target
from tests.product.exporter import EXAMPLES, Exporter, Samples, exporter, series
from tests.product.faults import fresh

pytestmark = pytest.mark.bpf

FOLDER = EXAMPLES / "file-latency"
CALLS = ("read", "write", "connect")
METRICS = {"calls": "io_seconds_count", "bytes": "io_bytes_total", "errors": "io_errors_total"}


@dataclass(frozen=True, slots=True)
class Watched:
    """How much the program's own account and the exporter's samples rose between two answers."""

    running: Exporter
    pid: int
    own: dict[str, dict[str, int]]
    counted: Samples

    def sample(self, name: str, call: str) -> float:
        return self.counted.get(series(name, call=call, pid=self.pid), 0.0)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with (
        tempfile.TemporaryDirectory() as folder,
        run_target("/usr/bin/python3", FOLDER / "files.py", Path(folder) / "file") as target,
        exporter(FOLDER / "config.yaml") as running,
    ):
        running.wait_attached("io", target.pid)
        first = target.tell("1")
        # An answer tells of all but itself, and a scrape has it too. So a last call, of nothing, tells of it.
        before = fresh(running)
        for rounds in (9, 5):
            target.tell(str(rounds))
        last = target.tell("0")
        after = fresh(running)
        own = {kind: minus(json.loads(last)[kind], json.loads(first)[kind]) for kind in METRICS}
        own["bytes"]["write"] += len(last) - len(first)
        yield Watched(running, target.pid, own, increase(before, after))


@pytest.mark.parametrize("kind", METRICS)
def test_what_is_counted_equals_the_programs_own_account(watched: Watched, kind: str) -> None:
    counted = {call: watched.sample(METRICS[kind], call) for call in CALLS}

    assert counted == {call: watched.own[kind].get(call, 0) for call in CALLS}
    assert any(counted.values())


def test_calls_take_time(watched: Watched) -> None:
    assert all(watched.sample("io_seconds_sum", call) > 0 for call in CALLS)


def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    assert promtool_says(watched.running) == []


def minus(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {call: number - before.get(call, 0) for call, number in after.items()}
