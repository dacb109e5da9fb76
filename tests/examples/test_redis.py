"""Commands and allocations of a redis under load, beside what redis says in INFO."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.examples.agreement import increase, promtool_says
from tests.product.exporter import EXAMPLES, PREFIX, Exporter, Samples, exporter, free_port, series, until
from tests.product.faults import ATTACH_IDS, ATTACH_MODES, fresh

pytestmark = pytest.mark.bpf

LOAD = ("-q", "-n", "4000", "-c", "10", "-d", "64", "-r", "1000", "-t", "set,lpush,hset")
# What a transaction or a script executes is a call, but no client's command; what is only queued, or refused, is a
# client's command, but no call.
COMMANDS = """\
MULTI
INCR hits
INCR hits
EXEC
EVAL "redis.call('SET', 'a', 1) return redis.call('GET', 'a')" 0
NOSUCHCOMMAND
"""
EXECUTED_INSIDE, QUEUED, REFUSED = 4, 2, 1
HISTOGRAMS = {"redis_command_seconds": 23, "redis_malloc_seconds": 19}


@dataclass(frozen=True, slots=True)
class Redis:
    """A running redis-server, and what it says of itself."""

    pid: int
    port: int

    def tell(self, *arguments: str, lines: str = "") -> str:
        """Send one command, or lines of them, before which redis-cli asks for the commands' documentation."""
        command = ["redis-cli", "-p", str(self.port), *arguments]
        return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, check=True).stdout

    def calls(self) -> int:
        """Return how many commands it has executed, this question not among them."""
        commandstats = self.tell("INFO", "commandstats")
        return sum(int(count) for count in re.findall(r"^cmdstat_.*:calls=(\d+)", commandstats, re.MULTILINE))


@dataclass(frozen=True, slots=True)
class Watched:
    """What was scraped of a redis; `before` and `after` load and COMMANDS it was stopped."""

    running: Exporter
    pid: int
    own_calls: int
    before: Samples
    under_load: list[Samples]
    after: Samples

    def increase(self, name: str) -> float:
        return increase(self.before, self.after)[series(name, pid=self.pid)]


@pytest.fixture(scope="module", params=ATTACH_MODES, ids=ATTACH_IDS)
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with redis() as target, exporter(EXAMPLES / "redis/config.yaml", environment=request.param) as running:
        running.wait_attached("redis_commands", target.pid)
        running.wait_attached("redis_malloc", target.pid)
        # Attaching to entry and return is two steps, and redis allocates in between as it likes: what is compared
        # exactly is what came afterwards, between two moments at which nothing of redis runs.
        before, own_before = scrape_stopped(running, target.pid), target.calls()
        with subprocess.Popen(["redis-benchmark", "-p", str(target.port), *LOAD], stdout=subprocess.DEVNULL) as load:
            under_load = [running.scrape()]
            while load.poll() is None:
                under_load.append(running.scrape())
        assert load.returncode == 0
        target.tell(lines=COMMANDS)
        own_calls = target.calls() - own_before
        after = scrape_stopped(running, target.pid)
        yield Watched(running, target.pid, own_calls, before, under_load, after)


def test_executed_commands_equal_those_of_info_commandstats(watched: Watched) -> None:
    the_question_itself = 1

    assert watched.own_calls > 12_000
    assert watched.increase("redis_calls_total") == watched.own_calls + the_question_itself


def test_clients_commands_are_the_executed_ones_but_for_those_within_others_and_with_those_not_executed(
    watched: Watched,
) -> None:
    executed = watched.increase("redis_calls_total")

    assert watched.increase("redis_command_seconds_count") == executed - EXECUTED_INSIDE + QUEUED + REFUSED


def test_mallocs_histogram_counts_what_a_counter_on_the_same_function_counts(watched: Watched) -> None:
    calls = watched.increase("redis_malloc_calls_total")

    assert calls > 4000
    assert watched.increase("redis_malloc_seconds_count") == calls


@pytest.mark.parametrize("histogram", HISTOGRAMS)
def test_a_histogram_has_its_buckets_its_count_and_its_sum(watched: Watched, histogram: str) -> None:
    buckets = cumulative(watched.after, histogram, watched.pid)

    assert len(buckets) == HISTOGRAMS[histogram] + 1
    assert buckets == sorted(buckets)
    assert len(set(buckets)) > 2
    assert buckets[-1] == watched.after[series(f"{histogram}_count", pid=watched.pid)]
    assert watched.increase(f"{histogram}_sum") > 0


def test_under_load_every_scrape_has_all_samples_and_none_falls(watched: Watched) -> None:
    expected = of_redis(watched.after, watched.pid).keys()

    assert len(watched.under_load) > 1
    for earlier, later in itertools.pairwise(of_redis(each, watched.pid) for each in watched.under_load):
        assert later.keys() == expected
        assert [key for key in later if later[key] < earlier[key]] == []


def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    assert promtool_says(watched.running) == []


@contextlib.contextmanager
def redis() -> Iterator[Redis]:
    """Run Debian's redis-server, which keeps nothing."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        process = subprocess.Popen([*command, "--dir", folder], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            ping = ["redis-cli", "-p", str(port), "ping"]
            until(lambda: subprocess.run(ping, capture_output=True, check=False).stdout == b"PONG\n", "redis answers")
            yield Redis(process.pid, port)
        finally:
            process.kill()
            process.wait()


def scrape_stopped(running: Exporter, pid: int) -> Samples:
    """Scrape while the process is stopped: its numbers are then of one moment."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: "\nState:\tT" in Path(f"/proc/{pid}/status").read_text(), "it has stopped")
        return fresh(running)
    finally:
        os.kill(pid, signal.SIGCONT)


def of_redis(samples: Samples, pid: int) -> Samples:
    return {
        key: value
        for key, value in samples.items()
        if key[0].startswith(f"{PREFIX}redis_") and ("pid", str(pid)) in key[1]
    }


def cumulative(samples: Samples, histogram: str, pid: int) -> list[float]:
    """Return the buckets by ascending bound."""
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in of_redis(samples, pid).items()
        if name == f"{PREFIX}{histogram}_bucket"
    }
    return [buckets[bound] for bound in sorted(buckets)]
