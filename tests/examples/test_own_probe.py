"""The tutorial: a C program with a probe of its own, beside its own count of orders."""

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.agreement import promtool_says
from tests.product.compiled import Target, run_target
from tests.product.exporter import EXAMPLES, exporter, series
from tests.product.faults import fresh

pytestmark = pytest.mark.bpf

FOLDER = EXAMPLES / "own-probe"
ORDERS = [("tea", 250), ("cake", 399), ("tea", 250), ("water", 0)]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Target]:
    subprocess.run(["gcc", "-O2", "-o", tmp_path / "shop", FOLDER / "shop.c"], check=True, timeout=120)
    with run_target(tmp_path / "shop") as target:
        yield target


def test_ten_lines_count_what_the_program_counts(shop: Target) -> None:
    assert len((FOLDER / "config.yaml").read_text().splitlines()) == 10
    with exporter(FOLDER / "config.yaml") as running:
        running.wait_attached("orders", shop.pid)
        for item, cents in ORDERS:
            said = shop.tell(f"{item} {cents}")

        assert fresh(running)[series("orders_total", pid=shop.pid)] == int(said.split()[0]) == len(ORDERS)
        assert promtool_says(running) == []


def test_the_probes_arguments_give_labels_and_values(shop: Target) -> None:
    with exporter(FOLDER / "by-item.yaml") as running:
        running.wait_attached("orders_by_item", shop.pid)
        for item, cents in ORDERS:
            said = shop.tell(f"{item} {cents}")
        samples = fresh(running)

        for item, times in Counter(item for item, _ in ORDERS).items():
            assert samples[series("orders_by_item_total", item=item, pid=shop.pid)] == times
        sales = {key: value for key, value in samples.items() if key[0] == "userspace_exporter_sales_euros_total"}
        assert sum(sales.values()) == pytest.approx(int(said.split()[1]) / 100)
        assert sales[series("sales_euros_total", item="tea", pid=shop.pid)] == 5
        assert promtool_says(running) == []
