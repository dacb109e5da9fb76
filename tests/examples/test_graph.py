"""What draws the examples' graphs, on numbers of our own and on a Prometheus that scrapes us."""

import importlib.util
import math
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.product.exporter import until

GRAPH = Path(__file__).resolve().parents[2] / "examples/graph.py"


@pytest.fixture(scope="module")
def graph() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("graph", GRAPH)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["graph"] = loaded  # where a dataclass with slots looks itself up
    spec.loader.exec_module(loaded)
    yield loaded
    del sys.modules["graph"]


def test_the_same_numbers_make_the_same_small_file_with_its_text_as_text(graph: ModuleType, tmp_path: Path) -> None:
    lines = [
        graph.Line(f"generation {number}", [*range(60)], [math.sin(second + number) ** 2 for second in range(60)])
        for number in range(3)
    ]
    for name in ("once.svg", "twice.svg"):
        graph.draw(lines, "Collections", "s", tmp_path / name)

    once = (tmp_path / "once.svg").read_bytes()
    assert once == (tmp_path / "twice.svg").read_bytes()
    assert len(once) < graph.LARGEST_BYTES
    texts = {element.text for element in ElementTree.fromstring(once).iter("{http://www.w3.org/2000/svg}text")}  # noqa: S314
    assert {"Collections", "generation 0", "generation 2"} <= texts
    assert b"<dc:date>" not in once


def test_a_second_without_a_value_is_a_gap(graph: ModuleType, tmp_path: Path) -> None:
    whole, broken = ([1.0, 2.0, between, 2.0, 1.0] for between in (1.0, math.nan))
    pictures = []
    for values in (whole, broken):
        graph.draw([graph.Line("only", [*range(5)], values)], "Gap", "", tmp_path / "gap.svg")
        pictures.append((tmp_path / "gap.svg").read_text())

    assert pictures[1].count("M ") > pictures[0].count("M ")


def test_shares_are_written_in_percent(graph: ModuleType, tmp_path: Path) -> None:
    graph.draw([graph.Line("half", [0, 1], [0.0, 0.5])], "Share", "%", tmp_path / "share.svg")

    assert ">50%<" in (tmp_path / "share.svg").read_text()


@pytest.fixture
def counting() -> Iterator[str]:
    """Serve a counter that rises by 7 with each scrape; give the address."""
    scrapes = iter(range(1_000_000))

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f'# TYPE c_total counter\nc_total{{gen="2"}} {7 * next(scrapes)}\n'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
        finally:
            server.shutdown()
            thread.join()


def test_an_expression_gives_a_line_for_each_series_with_its_labels_in_the_legend(
    graph: ModuleType, counting: str
) -> None:
    with graph.prometheus(counting) as api:
        begin = time.time()

        def lines() -> Any:
            return graph.ask_range(api, "changes(c_total[30s]) > 1", "generation {gen}", begin, time.time())

        (line,) = until(lines, "two changes were scraped")

    assert line.legend == "generation 2"
    assert [value for value in line.values if not math.isnan(value)][-1] > 1
