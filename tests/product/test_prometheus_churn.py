"""Prometheus scrapes all the while as targets come and go, workers are killed and the config changes: nothing is amiss.

A scrape may take its second where the machine is busy, so none of less than that is asked for. Instead of one instance
that is scraped four times a second there are many, of the same exporter, each of which is scraped every few seconds.
"""

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

from tests.product.commanded import commanded
from tests.product.exporter import PREFIX, REPOSITORY, Exporter, exporter, until
from tests.product.faults import traffic, wait_for_worker
from tests.product.lifecycle import attachments
from tests.product.programs import gc_config, python_target
from tests.product.prometheus import Prometheus, prometheus

pytestmark = pytest.mark.bpf

APART, SUMMED, OTHER = "gc_total", "gc_summed_total", "gc_other_total"
APART_NAME, SUMMED_NAME = f"apart{os.getpid()}", f"sum{os.getpid()}"
INSTANCES = [f"i{number:02}" for number in range(12)]
INTERVAL_SECONDS = 3
ROUNDS, SCRAPES = 6, 120  # of which there are at least so many: about half a minute
JOB = "ebpf-userspace-exporter"  # as the rules have it

# What a worker that was killed, and a target that left too soon, may well bring about for a moment. It never lasts the
# minutes after which somebody is told.
MOMENTARY = {"UserspaceExporterStale", "UserspaceExporterTargetsNotAttached"}

Series = tuple[dict[str, str], dict[float, float]]


@dataclass(slots=True)
class Counts:
    """How often targets have collected garbage by their own count, each of those told apart and all that are summed."""

    apart: Counter[int]
    summed: int = 0


@dataclass(frozen=True, slots=True)
class Churned:
    """What Prometheus had seen at a time when all was over, and what there was to be seen."""

    prometheus: Prometheus
    at: float
    counts: Counts
    gone: set[int]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        return self.prometheus.query(expression, at=self.at)

    def samples(self, selector: str) -> list[Series]:
        return self.prometheus.samples(selector, at=self.at)


@pytest.fixture(scope="module")
def churned() -> Iterator[Churned]:
    with (
        exporter(programs(), "--exit-grace", f"{3 * INTERVAL_SECONDS}s") as running,
        python_target(APART_NAME) as living,
        commanded(SUMMED_NAME) as summed,
    ):
        running.wait_attached(APART, living.pid)
        running.wait_attached(SUMMED, summed.pid)
        before = living.collect(0)[0]
        counts, gone = Counts(Counter()), set()
        with prometheus(scraping(running)) as watching:
            with traffic(living):
                for number in itertools.count():
                    if number >= ROUNDS and scrapes(watching).total() >= SCRAPES:
                        break
                    gone.add(one_comes_and_goes(running, counts, kill=number % 3 == 0))
                    one_of_many_comes_and_goes(running, counts, kill=number % 3 == 1)
                    if number % 3 == 2:
                        kill_worker(running, living.pid)
                    reload(running, number, living.pid, summed.pid)
                    summed.do("collect", 3)
                    counts.summed += 3
            counts.apart[living.pid] = living.collect(0)[0] - before
            wait_for_the_last(watching, gone)
            at = time.time()
            wait_for_scrapes(watching)  # so that none is missing of those before
            yield Churned(watching, at, counts, gone)


def programs(*, other: bool = False, change: int = 0) -> str:
    """Return a config of a program that tells targets apart, one that sums them, and one that comes and goes."""
    [apart] = yaml.safe_load(gc_config(APART, binary_name=APART_NAME))["programs"]
    [more] = yaml.safe_load(gc_config(OTHER, binary_name=APART_NAME))["programs"]
    [summed] = yaml.safe_load(gc_config(SUMMED, binary_name=SUMMED_NAME))["programs"]
    summed["target_labels"] = {"service": "shop"}
    summed["code"] = summed["code"].replace("int gen = 0;", f"int gen = 0; gen += {change} * 0;")
    return yaml.safe_dump({"programs": [apart, summed, *([more] if other else [])]})


def scraping(running: Exporter) -> dict[str, object]:
    """Return a config of Prometheus with the rules that ship, and many instances that are one."""
    interval = f"{INTERVAL_SECONDS}s"
    targets = [{"targets": [f"127.0.0.1:{running.port}"], "labels": {"instance": instance}} for instance in INSTANCES]
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": "1s"},
        "rule_files": [str(REPOSITORY / "deploy/prometheus/rules.yaml")],
        "scrape_configs": [{"job_name": JOB, "static_configs": targets}],
    }


def scrapes(watching: Prometheus) -> Counter[str]:
    """Return how often each instance was scraped."""
    return Counter({labels["instance"]: int(n) for labels, n in watching.query("count_over_time(up[1h])")})


def one_comes_and_goes(running: Exporter, counts: Counts, *, kill: bool) -> int:
    """Have a target with series of its own count, exit as it counts on, and lose its worker in between; its pid."""
    with commanded(APART_NAME) as target:
        running.wait_attached(APART, target.pid)
        target.do("collect", 5)
        if kill:
            kill_worker(running, target.pid)
        target.exit_after(7)
        counts.apart[target.pid] = 12
        return target.pid


def one_of_many_comes_and_goes(running: Exporter, counts: Counts, *, kill: bool) -> None:
    """Have a target whose counts are summed with others' do the same."""
    with commanded(SUMMED_NAME) as target:
        running.wait_attached(SUMMED, target.pid)
        target.do("collect", 2)
        if kill:
            kill_worker(running, target.pid)
        target.exit_after(9)
        counts.summed += 11


def kill_worker(running: Exporter, pid: int) -> None:
    worker = wait_for_worker(running, pid)
    os.kill(worker, signal.SIGKILL)
    wait_for_worker(running, pid, after=worker)


def reload(running: Exporter, number: int, living: int, summed: int) -> None:
    """Have the config read again: a program more or less, and another program for the targets that are summed."""
    is_more = number % 2 == 0
    running.config.write_text(programs(other=is_more, change=number + 1))
    running.process.send_signal(signal.SIGHUP)
    until(lambda: attachments(running, summed, SUMMED) >= number + 2, f"the change is at work; log:\n{running.log}")
    until(
        lambda: (running.value("enabled_programs", name=OTHER, pid=living) is not None) == is_more,
        f"the other program is {'at work' if is_more else 'gone'}; log:\n{running.log}",
    )


def wait_for_the_last(watching: Prometheus, gone: set[int]) -> None:
    """Wait until each instance was scraped after all was counted, and shows nobody who is gone."""

    def none_is_shown() -> bool:
        return gone.isdisjoint(int(labels["pid"]) for labels, _ in watching.query(PREFIX + APART))

    wait_for_scrapes(watching)
    until(none_is_shown, "those that are gone are gone")


def wait_for_scrapes(watching: Prometheus) -> None:
    """Wait until each instance was scraped from now on."""
    seen = scrapes(watching)

    def each_is() -> bool:
        now = scrapes(watching)
        return all(now[instance] >= seen[instance] + 2 for instance in INSTANCES)  # one may have been under way

    until(each_is, "each instance is scraped once more")


def counters(churned: Churned) -> list[Series]:
    """Return all series of both programs."""
    return [each for name in (APART, SUMMED) for each in churned.samples(PREFIX + name)]


def test_every_scrape_has_succeeded(churned: Churned) -> None:
    found = churned.samples("up")

    assert {labels["instance"] for labels, _ in found} == set(INSTANCES)
    assert sum(len(values) for _, values in found) >= SCRAPES
    assert [values for _, values in found if set(values.values()) != {1}] == []


def test_no_series_has_a_gap(churned: Churned) -> None:
    times = {labels["instance"]: sorted(values) for labels, values in churned.samples("up")}

    for labels, values in counters(churned):
        scraped = times[labels["instance"]]
        first, last = scraped.index(min(values)), scraped.index(max(values))
        assert sorted(values) == scraped[first : last + 1], labels
        # Only a target's end is one of its series.
        assert last == len(scraped) - 1 or int(labels["pid"]) in churned.gone


@pytest.mark.parametrize("name", [APART, SUMMED])
def test_no_counter_is_ever_reset(churned: Churned, name: str) -> None:
    found = churned.query(f"resets({PREFIX}{name}[1h])")

    assert len(found) >= len(INSTANCES)
    assert [(labels, value) for labels, value in found if value] == []


def test_totals_are_the_targets_own_counts(churned: Churned) -> None:
    """Of those that are gone as well, each of which every instance has shown with its last value."""
    last = f'last_over_time({PREFIX}{{}}{{{{gen="0"}}}}[1h])'
    apart = {(labels["instance"], int(labels["pid"])): value for labels, value in churned.query(last.format(APART))}
    summed = {labels["instance"]: value for labels, value in churned.query(last.format(SUMMED))}

    assert len(churned.counts.apart) == len(churned.gone) + 1 > ROUNDS
    assert apart == {(name, pid): count for name in INSTANCES for pid, count in churned.counts.apart.items()}
    assert summed == dict.fromkeys(INSTANCES, churned.counts.summed)


def test_no_series_is_twice_in_a_scrape(churned: Churned) -> None:
    """Which Prometheus tells of only from 2.52 on: before, it keeps one sample of them, and here fewer than it got."""
    by_scrape = '{job="%s", __name__!~"up|scrape_.*|ALERTS.*|name_map:.*"}'
    kept = Counter(
        (labels["instance"], moment) for labels, values in churned.samples(by_scrape % JOB) for moment in values
    )
    got = {
        (labels["instance"], moment): number
        for labels, values in churned.samples("scrape_samples_scraped")
        for moment, number in values.items()
    }

    assert len(got) >= SCRAPES
    assert kept == got


@pytest.mark.parametrize(
    "pattern", ["prometheus_target_scrapes_", "prometheus_target_scrape_pool_", "prometheus_tsdb_out_of_order_samples"]
)
def test_prometheus_has_refused_no_sample(churned: Churned, pattern: str) -> None:
    of_refusals = ("duplicate", "out_of", "exceeded", "forced", "failed")
    found = churned.prometheus.own(pattern)
    refused = {name: value for name, value in found.items() if any(word in name for word in of_refusals)}

    assert refused
    assert {name: value for name, value in refused.items() if value} == {}


def test_prometheus_has_warned_of_nothing(churned: Churned) -> None:
    assert churned.prometheus.log == ""


def test_shipped_rules_are_evaluated_without_failure(churned: Churned) -> None:
    [group] = churned.prometheus.ask("rules")["groups"]
    shipped = yaml.safe_load((REPOSITORY / "deploy/prometheus/rules.yaml").read_text())["groups"][0]["rules"]

    assert len(group["rules"]) == len(shipped)
    assert {(rule["health"], rule.get("lastError", "")) for rule in group["rules"]} == {("ok", "")}
    failures = churned.prometheus.own("prometheus_rule_evaluation_failures_total")
    assert failures == {"prometheus_rule_evaluation_failures_total": 0}
    assert churned.prometheus.own("prometheus_rule_evaluations_total")["prometheus_rule_evaluations_total"] > 100


def test_the_recording_rule_says_how_full_maps_are(churned: Churned) -> None:
    found = churned.query(f'name_map:{PREFIX}map_entries:ratio{{name="{APART}"}}')

    assert {labels["instance"] for labels, _ in found} == set(INSTANCES)
    assert all(0 < value < 1 for _, value in found)


def test_no_alert_fires_nor_would_if_it_lasted(churned: Churned) -> None:
    alerts = churned.samples("ALERTS")

    assert [labels for labels, _ in alerts if labels["alertstate"] == "firing"] == []
    assert {labels["alertname"] for labels, _ in alerts} <= MOMENTARY
