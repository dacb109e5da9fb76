"""Lookups by a program, beside its own account; nobody outside of this machine is asked."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.examples.agreement import promtool_says
from tests.product.compiled import run_target
from tests.product.exporter import EXAMPLES, PREFIX, Exporter, Samples, exporter
from tests.product.faults import fresh

pytestmark = pytest.mark.bpf

FOLDER = EXAMPLES / "dns"
OWN_SERIES = 100
# Names that /etc/hosts has, addresses, and, behind a "=", what is not an address and is looked for nowhere.
NAMES = [
    "localhost",
    "127.0.0.1",
    "::1",
    "=no-such-host",
    f"={'long.' * 20}example",
    *(f"127.0.1.{n}" for n in range(120)),
]


@dataclass(frozen=True, slots=True)
class Watched:
    """What was scraped when all was looked up, and the program's own account."""

    running: Exporter
    pid: int
    lookups: Counter[str]
    failed: Counter[str]
    samples: Samples

    def of(self, metric: str) -> Iterator[tuple[dict[str, str], float]]:
        """Give the samples of this process: labels and value. Any other Python of this machine looks names up too."""
        for (name, pairs), value in self.samples.items():
            labels = dict(pairs)
            if name == PREFIX + metric and labels["pid"] == str(self.pid):
                yield labels, value

    def by_name(self, metric: str) -> dict[str, float]:
        return {labels["name"]: value for labels, value in self.of(metric)}


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with tempfile.TemporaryDirectory() as folder:
        script = shutil.copy(FOLDER / "lookups.py", folder)
        with run_target("/usr/bin/python3", script) as target, exporter(FOLDER / "config.yaml") as running:
            running.wait_attached("dns", target.pid)
            for times, name in enumerate(NAMES[:5], start=2):
                for _ in range(times):
                    target.tell(name)
            for name in NAMES:
                said = json.loads(target.tell(name))
            yield Watched(running, target.pid, Counter(said["lookups"]), Counter(said["failed"]), fresh(running))


def test_lookups_by_name_are_the_programs_own_up_to_a_hundred_names(watched: Watched) -> None:
    counted = watched.by_name("dns_lookup_seconds_count")

    first = [shown(name) for name in NAMES[:OWN_SERIES]]
    expected = {shown(name): watched.lookups[own(name)] for name in NAMES[:OWN_SERIES]}
    assert counted == expected | {"(other)": len(NAMES) - len(first)}


def test_no_lookup_is_left_out(watched: Watched) -> None:
    assert sum(watched.by_name("dns_lookup_seconds_count").values()) == watched.lookups.total()


def test_failures_by_name_are_the_programs_own(watched: Watched) -> None:
    failed = {(name[:63], "NONAME"): times for name, times in watched.failed.items()}
    counted = {(labels["name"], labels["error"]): value for labels, value in watched.of("dns_lookup_errors_total")}

    assert len(failed) == 2
    assert counted == failed


def test_lookups_take_time(watched: Watched) -> None:
    assert all(seconds > 0 for seconds in watched.by_name("dns_lookup_seconds_sum").values())


def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    assert promtool_says(watched.running) == []


def own(name: str) -> str:
    return name.removeprefix("=")


def shown(name: str) -> str:
    """Return the label of a name: its first 63 bytes."""
    return own(name)[:63]
