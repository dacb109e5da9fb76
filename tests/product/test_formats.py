"""Every kind of map, decoder and histogram, read from real maps, as our own /metrics and as others read it."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.product.compiled import SOURCE, Target, compile_c, run_target
from tests.product.exporter import PREFIX, Exporter, Samples, exporter
from tests.product.faults import fresh
from tests.product.formats import EVENTS, config, expected

pytestmark = pytest.mark.bpf

ROUNDS = 4
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}
METRICS = sorted({name for name, _ in expected(PREFIX, 1, 1)})


@dataclass(frozen=True, slots=True)
class AtRest:
    """An exporter whose targets, two processes of one binary, have done their work."""

    running: Exporter
    targets: tuple[Target, Target]

    def samples(self) -> Samples:
        return of_programs(fresh(self.running))

    def expected(self) -> Samples:
        first, second = self.targets
        return expected(PREFIX, first.pid, ROUNDS) | expected(PREFIX, second.pid, 1)


@pytest.fixture(scope="module")
def at_rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AtRest]:
    binary = compile_c(SOURCE, tmp_path_factory.mktemp("formats") / "xp-formats")
    with run_target(binary) as first, run_target(binary) as second, exporter(config("xp-formats")) as running:
        running.wait_attached("formats", first.pid, second.pid)
        cpus = sorted(os.sched_getaffinity(first.pid))
        for number in range(ROUNDS):
            os.sched_setaffinity(first.pid, {cpus[number % len(cpus)]})  # so that per-CPU maps have something on each
            do(first)
        do(second)
        yield AtRest(running, (first, second))


@pytest.mark.parametrize("name", METRICS)
def test_samples_are_those_of_the_events(at_rest: AtRest, name: str) -> None:
    wanted = {key: value for key, value in at_rest.expected().items() if key[0] == name}

    assert {key: value for key, value in at_rest.samples().items() if key[0] == name} == pytest.approx(wanted)


def test_no_other_samples_are_shown(at_rest: AtRest) -> None:
    assert at_rest.samples().keys() == at_rest.expected().keys()


def test_a_stock_collector_over_the_state_directory_yields_the_same(at_rest: AtRest) -> None:
    ours = at_rest.samples()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(at_rest.running.state_dir))  # type: ignore[no-untyped-call]  # it has none

    stock = [sample for family in registry.collect() for sample in family.samples]

    assert {(sample.name, frozenset(sample.labels.items())): sample.value for sample in stock} == ours
    assert len(stock) == len(ours)


def test_openmetrics_has_the_same_samples_as_text(at_rest: AtRest) -> None:
    ours = at_rest.samples()

    body = at_rest.running.get(headers=OPENMETRICS).body.decode()
    families = list(parse_openmetrics(body))  # type: ignore[no-untyped-call]  # it has none

    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    assert of_programs(samples) == ours
    assert {name for name, _ in samples} == {name for name, _ in fresh(at_rest.running)}


def test_promtool_has_nothing_to_say(at_rest: AtRest) -> None:
    metrics = at_rest.running.get().body

    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False)

    said = (checked.stdout + checked.stderr).decode().splitlines()
    # This is what a user called it; every name of ours is as it should be.
    assert said == [f'{PREFIX}formats_operations counter metrics should have "_total" suffix']


def of_programs(samples: Samples) -> Samples:
    return {key: value for key, value in samples.items() if key[0].startswith(f"{PREFIX}formats_")}


def do(target: Target) -> None:
    for event in EVENTS:
        target.tell(f"event {event.code} {event.path} {event.address} {event.amount} {event.times}")
