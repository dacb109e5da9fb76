"""What a C program asks malloc for, beside its own account of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.examples.agreement import promtool_says
from tests.examples.checks import strict_check_says
from tests.product.compiled import Target, compile_c, run_target
from tests.product.exporter import EXAMPLES, PREFIX, Exporter, Samples, exporter, series
from tests.product.faults import fresh

pytestmark = pytest.mark.bpf

CONFIG = EXAMPLES / "malloc/config.yaml"
ROUNDS = 7
SIZES_A_ROUND = [*range(70), *[300] * 5, *[16, 32, 64, 128, 256, 512, 1024, 2048, 4096] * 3, *[20000] * 10]


@dataclass(frozen=True, slots=True)
class Watched:
    """A shop that was attached to before it did its rounds; `account` is its own, calls and bytes by function."""

    running: Exporter
    shop: Target
    account: dict[str, tuple[int, int]]
    samples: Samples

    def by_caller(self, name: str) -> dict[str, float]:
        return {
            dict(labels)["caller"]: value
            for (found, labels), value in self.samples.items()
            if found == PREFIX + name and ("pid", str(self.shop.pid)) in labels
        }


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    source = (EXAMPLES / "malloc/shop.c").read_text()
    binary: Path = compile_c(source, tmp_path_factory.mktemp("malloc") / "shop")
    with run_target(binary) as shop, exporter(CONFIG) as running:
        running.wait_attached("malloc", shop.pid)
        for _ in range(ROUNDS):
            answer = shop.tell("")
        account = {}
        for entry in answer.rstrip("|").split("|"):
            function, _, numbers = entry.partition("=")
            calls, size = map(int, numbers.split(","))
            account[function] = (calls, size)
        yield Watched(running, shop, account, fresh(running))


def test_calls_and_bytes_by_function_equal_the_programs_own(watched: Watched) -> None:
    calls, sizes = watched.by_caller("malloc_calls_total"), watched.by_caller("malloc_bytes_total")

    assert {function: (calls[function], sizes[function]) for function in calls} == watched.account
    assert sizes.keys() == calls.keys() == {"parse_order", "open_session", "grow_basket", "render_page"}


def test_sizes_are_in_the_buckets_that_they_belong_to(watched: Watched) -> None:
    bounds = {
        float(labels["le"]): value
        for (name, have), value in watched.samples.items()
        if name == f"{PREFIX}malloc_size_bytes_bucket" and (labels := dict(have))["pid"] == str(watched.shop.pid)
    }

    assert len(bounds) == 33
    assert bounds == {bound: ROUNDS * sum(size <= bound for size in SIZES_A_ROUND) for bound in bounds}


def test_the_histogram_has_what_the_counters_have(watched: Watched) -> None:
    pid = watched.shop.pid
    calls, sizes = watched.by_caller("malloc_calls_total"), watched.by_caller("malloc_bytes_total")

    assert watched.samples[series("malloc_size_bytes_count", pid=pid)] == sum(calls.values())
    assert watched.samples[series("malloc_size_bytes_sum", pid=pid)] == sum(sizes.values())


def test_promtool_has_nothing_to_say(watched: Watched) -> None:
    assert promtool_says(watched.running) == []


def test_the_strict_check_has_nothing_to_say(watched: Watched) -> None:
    assert strict_check_says(CONFIG, watched.shop.pid) == []
