"""Collections and exceptions of a Ruby program, beside GC.count and its own account."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.examples.agreement import promtool_says
from tests.examples.checks import strict_check_says
from tests.product.compiled import Target, run_target
from tests.product.exporter import EXAMPLES, PREFIX, Exporter, Samples, exporter, series
from tests.product.faults import fresh

pytestmark = pytest.mark.bpf

CONFIG = EXAMPLES / "ruby/config.yaml"
ROUNDS, FULL_ROUNDS = 9, 3


@dataclass(frozen=True, slots=True)
class Watched:
    """A shop that was attached to, and its own account before and after its rounds."""

    running: Exporter
    shop: Target
    before: dict[str, int]
    after: dict[str, int]
    samples: Samples

    def sample(self, name: str) -> float:
        return self.samples[series(name, pid=self.shop.pid)]


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with run_target("ruby", EXAMPLES / "ruby/shop.rb") as shop, exporter(CONFIG) as running:
        running.wait_attached("ruby_gc", shop.pid)
        running.wait_attached("ruby_exceptions", shop.pid)
        before = account(shop.tell("count"))
        for number in range(ROUNDS):
            answer = shop.tell("full" if number < FULL_ROUNDS else "")
        yield Watched(running, shop, before, account(answer), fresh(running))


def account(answer: str) -> dict[str, int]:
    pairs = (entry.split("=") for entry in answer.split("|"))
    return {name: int(number) for name, number in pairs}


def test_marks_equal_rubys_count_of_collections(watched: Watched) -> None:
    collections = watched.after["count"] - watched.before["count"]

    assert collections > FULL_ROUNDS
    assert watched.sample("ruby_gc_mark_seconds_count") == collections
    assert watched.sample("ruby_gc_mark_seconds_sum") > 0


def test_a_collection_is_swept_in_several_steps(watched: Watched) -> None:
    assert watched.sample("ruby_gc_sweep_seconds_count") > watched.sample("ruby_gc_mark_seconds_count")
    assert watched.sample("ruby_gc_sweep_seconds_sum") > 0


def test_exceptions_by_class_equal_the_programs_own(watched: Watched) -> None:
    raised = {
        dict(labels)["class"]: value
        for (name, labels), value in watched.samples.items()
        if name == f"{PREFIX}ruby_exceptions_total" and ("pid", str(watched.shop.pid)) in labels
    }

    assert raised == {name: times for name, times in watched.after.items() if name != "count"}
    assert raised["SoldOut"] == 5 * ROUNDS


def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    assert promtool_says(watched.running) == []


def test_the_strict_check_has_nothing_to_say(watched: Watched) -> None:
    assert strict_check_says(CONFIG, watched.shop.pid) == []
