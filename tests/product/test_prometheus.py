"""Debian's Prometheus scrapes the exporter, once as it likes, in OpenMetrics, and once in text."""

import contextlib
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.product.compiled import SOURCE, compile_c, run_target
from tests.product.exporter import PREFIX, exporter, until
from tests.product.formats import config
from tests.product.prometheus import Prometheus, prometheus
from tests.product.test_formats import do

pytestmark = pytest.mark.bpf

TEXT, OPENMETRICS = "text", "openmetrics"


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    binary = compile_c(SOURCE, tmp_path_factory.mktemp("prometheus") / "xp-prometheus")
    with run_target(binary) as target, exporter(config("xp-prometheus")) as running:
        running.wait_attached("formats", target.pid)
        do(target)
        with text_only(running.port) as text_port, prometheus(jobs(running.port, text_port)) as both:
            thrice = f"count_over_time({PREFIX}formats_everything_total[1m]) >= 3"
            until(lambda: len(both.query(thrice)) == 2, "both have been scraped thrice")
            yield both


@pytest.mark.parametrize("job", [TEXT, OPENMETRICS])
def test_up_is_1(scraped: Prometheus, job: str) -> None:
    until(lambda: [value for _, value in scraped.query(f'up{{job="{job}"}}')] == [1], f"{job} is up", seconds=20)


def test_prometheus_finds_no_error(scraped: Prometheus) -> None:
    def errors() -> list[str]:
        return [target["lastError"] for target in scraped.ask("targets", state="active")["activeTargets"]]

    until(lambda: errors() == ["", ""], "no scrape has failed", seconds=20)


@pytest.mark.parametrize(("job", "kind"), [(TEXT, "counter"), (OPENMETRICS, "unknown")])
def test_a_counter_without_total_is_of_the_type_that_its_format_allows(
    scraped: Prometheus, job: str, kind: str
) -> None:
    metric = f"{PREFIX}formats_operations"

    (found,) = scraped.ask("targets/metadata", match_target=f'{{job="{job}"}}', metric=metric)

    assert found["type"] == kind


def test_series_are_the_same_in_both_formats(scraped: Prometheus) -> None:
    text = series(scraped, TEXT)

    assert len(text) > 100
    assert text == series(scraped, OPENMETRICS)


def test_values_are_the_same_in_both_formats(scraped: Prometheus) -> None:
    values = {
        job: {
            tuple(sorted((k, v) for k, v in labels.items() if k not in ("job", "instance"))): value
            for labels, value in scraped.query(f'{{job="{job}",__name__=~"{PREFIX}formats_.+"}}')
        }
        for job in (TEXT, OPENMETRICS)
    }

    assert values[TEXT] == values[OPENMETRICS]


def test_histogram_quantiles_can_be_asked_for(scraped: Prometheus) -> None:
    found = scraped.query(f'histogram_quantile(0.5, {PREFIX}formats_powers_seconds_bucket{{job="{OPENMETRICS}"}})')

    assert [0 < value < 1e-4 for _, value in found] == [True]


def series(scraped: Prometheus, job: str) -> set[tuple[tuple[str, str], ...]]:
    """Return the labels, the name among them, of the series that one job has brought."""
    found = scraped.query(f'{{job="{job}",__name__=~"{PREFIX}.+"}}')
    return {tuple(sorted((k, v) for k, v in labels.items() if k not in ("job", "instance"))) for labels, _ in found}


def jobs(port: int, text_port: int) -> dict[str, Any]:
    """Return a config of two jobs, one over each port."""
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{job_port}"]}]}
            for job, job_port in ((OPENMETRICS, port), (TEXT, text_port))
        ],
    }


@contextlib.contextmanager
def text_only(port: int) -> Iterator[int]:
    """Pass requests on without an Accept header: before 2.49 Prometheus cannot be told to take text. Give the port."""

    class PassOn(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{self.path}", timeout=20) as answer:
                body = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), PassOn) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
