"""redis under load, watched through the malloc of the allocator it is linked with."""

import contextlib
import itertools
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.product.exporter import EXAMPLES, PREFIX, Exporter, Samples, exporter, free_port, series, until
from tests.product.faults import ATTACH_IDS, ATTACH_MODES, fresh

pytestmark = pytest.mark.bpf

HISTOGRAM = "malloc_latency_nanoseconds"
LOAD = ("-q", "-n", "4000", "-c", "10", "-d", "64", "-r", "1000", "-t", "set,lpush,hset")


@dataclass(frozen=True, slots=True)
class Watched:
    """What was scraped of a redis; `before` and `after` the load it was stopped."""

    pid: int
    before: Samples
    under_load: list[Samples]
    after: Samples

    def increase(self, name: str) -> float:
        return self.after[series(name, pid=self.pid)] - self.before[series(name, pid=self.pid)]


@pytest.fixture(scope="module", params=ATTACH_MODES, ids=ATTACH_IDS)
def watched(request: pytest.FixtureRequest) -> Watched:
    with redis() as (pid, port), exporter(EXAMPLES / "redis/config.yaml", environment=request.param) as running:
        running.wait_attached("malloc_latency", pid)
        # Attaching to entry and return is two steps, and redis allocates in between as it likes: what is compared
        # exactly is what came afterwards, between two moments at which nothing of redis runs.
        before = scrape_stopped(running, pid)
        with subprocess.Popen(["redis-benchmark", "-p", str(port), *LOAD], stdout=subprocess.DEVNULL) as load:
            under_load = [running.scrape()]
            while load.poll() is None:
                under_load.append(running.scrape())
        assert load.returncode == 0
        return Watched(pid, before, under_load, scrape_stopped(running, pid))


def test_a_redis_has_35_samples_33_of_them_buckets(watched: Watched) -> None:
    keys = set(of_histogram(watched.after, watched.pid))

    assert len(keys) == 35
    assert keys == expected_keys(watched.pid)


def test_under_load_every_scrape_has_all_samples_and_none_falls(watched: Watched) -> None:
    scrapes = [of_histogram(samples, watched.pid) for samples in watched.under_load]

    assert len(scrapes) > 1
    for earlier, later in itertools.pairwise(scrapes):
        assert later.keys() == expected_keys(watched.pid)
        assert [key for key in later if later[key] < earlier[key]] == []


def test_buckets_rise_up_to_the_count(watched: Watched) -> None:
    buckets = cumulative(watched.after, watched.pid)

    assert buckets == sorted(buckets)
    assert len(set(buckets)) > 2
    assert buckets[-1] == watched.after[series(f"{HISTOGRAM}_count", pid=watched.pid)]


def test_the_sum_is_that_of_nanoseconds(watched: Watched) -> None:
    assert watched.increase(f"{HISTOGRAM}_sum") > watched.increase(f"{HISTOGRAM}_count") > 0


def test_the_histogram_counts_the_calls_that_a_counter_on_the_same_function_counts(watched: Watched) -> None:
    calls = watched.increase("malloc_calls_total")

    assert calls > 4000
    assert watched.increase(f"{HISTOGRAM}_count") == calls


@contextlib.contextmanager
def redis() -> Iterator[tuple[int, int]]:
    """Run Debian's redis-server, which keeps nothing; give its pid and port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        process = subprocess.Popen([*command, "--dir", folder], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            ping = ["redis-cli", "-p", str(port), "ping"]
            until(lambda: subprocess.run(ping, capture_output=True, check=False).stdout == b"PONG\n", "redis answers")
            yield process.pid, port
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


def of_histogram(samples: Samples, pid: int) -> Samples:
    return {
        key: value
        for key, value in samples.items()
        if key[0].startswith(PREFIX + HISTOGRAM) and ("pid", str(pid)) in key[1]
    }


def expected_keys(pid: int) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    bounds = [float(2**key) for key in range(32)]
    texts = [*(f"{bound}" if bound < 1e6 else go_text(bound) for bound in bounds), "+Inf"]
    return {
        *(series(f"{HISTOGRAM}_bucket", pid=pid, le=text) for text in texts),
        series(f"{HISTOGRAM}_count", pid=pid),
        series(f"{HISTOGRAM}_sum", pid=pid),
    }


def go_text(bound: float) -> str:
    """Return a power of two from a million on as the stock client writes it: 1.048576e+06."""
    digits = str(int(bound))
    return f"{digits[0]}.{digits[1:].rstrip('0')}e+{len(digits) - 1:02d}"


def cumulative(samples: Samples, pid: int) -> list[float]:
    """Return the buckets by ascending bound."""
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in of_histogram(samples, pid).items()
        if name.endswith("_bucket")
    }
    return [buckets[bound] for bound in sorted(buckets)]
