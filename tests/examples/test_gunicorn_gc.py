"""Collections and pauses of gunicorn's workers, beside what their own Python says."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.examples.agreement import at_rest, increase, promtool_says
from tests.product.exporter import EXAMPLES, Exporter, Samples, exporter, series
from tests.product.faults import ATTACH_IDS, ATTACH_MODES
from tests.product.programs import GcStats, gunicorn_app

pytestmark = pytest.mark.bpf

GENERATIONS = range(3)


@dataclass(frozen=True, slots=True)
class Watched:
    """How much each worker's own account and the exporter's samples rose by some requests."""

    running: Exporter
    own: dict[int, GcStats]
    counted: Samples

    def sample(self, name: str, pid: int, generation: int) -> float:
        return self.counted.get(series(name, gen=generation, pid=pid), 0.0)


@pytest.fixture(scope="module", params=ATTACH_MODES, ids=ATTACH_IDS)
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with (
        gunicorn_app(workers=4) as app,
        exporter(EXAMPLES / "gunicorn-gc/config.yaml", environment=request.param) as running,
    ):
        running.wait_attached("gc", app.process.pid, *app.workers)
        own_before, before = at_rest(running, app.stats)
        for _ in range(200):
            app.get("/")
        own_after, after = at_rest(running, app.stats)
        own = {pid: minus(own_after[pid], own_before[pid]) for pid in app.workers}
        yield Watched(running, own, increase(before, after))


def test_collections_that_start_equal_pythons_own_count(watched: Watched) -> None:
    assert sum(stats.collections[0] for stats in watched.own.values()) > 0
    assert sum(stats.collections[2] for stats in watched.own.values()) > 0
    for pid, stats in watched.own.items():
        assert [watched.sample("gc_total", pid, generation) for generation in GENERATIONS] == stats.collections


def test_pauses_equal_pythons_own_count(watched: Watched) -> None:
    for pid, stats in watched.own.items():
        counts = [watched.sample("gc_pause_seconds_count", pid, generation) for generation in GENERATIONS]
        assert counts == stats.collections


def test_pauses_are_as_long_as_pythons_own_without_what_lies_around_them(watched: Watched) -> None:
    for pid, stats in watched.own.items():
        for generation in GENERATIONS:
            seconds = watched.sample("gc_pause_seconds_sum", pid, generation)
            assert 0 <= seconds <= stats.pause_seconds[generation]
    assert sum(watched.sample("gc_pause_seconds_sum", pid, 2) for pid in watched.own) > 0


def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    assert promtool_says(watched.running) == []


def minus(after: GcStats, before: GcStats) -> GcStats:
    return GcStats(
        [now - then for now, then in zip(after.collections, before.collections, strict=True)],
        [now - then for now, then in zip(after.pause_seconds, before.pause_seconds, strict=True)],
    )
