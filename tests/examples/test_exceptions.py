"""Exceptions of a Python program by type, beside what it has caught itself."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.examples.agreement import promtool_says
from tests.examples.checks import strict_check_says
from tests.product.compiled import Target, run_target
from tests.product.exporter import EXAMPLES, PREFIX, Exporter, exporter
from tests.product.faults import fresh
from tests.product.programs import PYTHON

pytestmark = pytest.mark.bpf

CONFIG = EXAMPLES / "exceptions/config.yaml"
ROUNDS = 30


@dataclass(frozen=True, slots=True)
class Watched:
    """A shop that was attached to before it raised anything."""

    running: Exporter
    shop: Target

    def raised(self) -> dict[str, float]:
        """Return how many exceptions the exporter has counted, by type."""
        return {
            dict(labels)["type"]: value
            for (name, labels), value in fresh(self.running).items()
            if name == f"{PREFIX}python_exceptions_total" and ("pid", str(self.shop.pid)) in labels
        }


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with run_target(PYTHON, EXAMPLES / "exceptions/shop.py") as shop, exporter(CONFIG) as running:
        running.wait_attached("python_exceptions", shop.pid)
        yield Watched(running, shop)


def test_exceptions_by_type_equal_those_that_were_caught_and_none_is_lost(watched: Watched) -> None:
    for _ in range(ROUNDS):
        caught = json.loads(watched.shop.tell(""))

    assert watched.raised() == caught
    assert sum(caught.values()) == 19 * ROUNDS
    assert watched.running.value("lost_events_total", name="python_exceptions", map="raised") == 0


def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    assert promtool_says(watched.running) == []


def test_the_strict_check_has_nothing_to_say(watched: Watched) -> None:
    assert strict_check_says(CONFIG, watched.shop.pid) == []
