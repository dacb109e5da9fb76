"""Debian's Prometheus scrapes the exporter, once as it likes, in OpenMetrics, and once in text."""

import contextlib
import json
import subprocess
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.product.compiled import SOURCE, compile_c, run_target
from tests.product.exporter import PREFIX, exporter, free_port, until
from tests.product.formats import config
from tests.product.test_formats import do

pytestmark = pytest.mark.bpf

TEXT, OPENMETRICS = "text", "openmetrics"


@dataclass(frozen=True, slots=True)
class Scraped:
    """A Prometheus that has scraped an exporter in both formats."""

    api: str

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series that the expression gives now."""
        answer = ask(f"{self.api}/query?" + urllib.parse.urlencode({"query": expression}))
        return [(each["metric"], float(each["value"][1])) for each in answer["result"]]

    def series(self, job: str) -> set[tuple[tuple[str, str], ...]]:
        """Return the labels, the name among them, of the series that one job has brought."""
        found = self.query(f'{{job="{job}",__name__=~"{PREFIX}.+"}}')
        return {tuple(sorted((k, v) for k, v in labels.items() if k not in ("job", "instance"))) for labels, _ in found}


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    binary = compile_c(SOURCE, tmp_path_factory.mktemp("prometheus") / "xp-prometheus")
    with run_target(binary) as target, exporter(config("xp-prometheus")) as running:
        running.wait_attached("formats", target.pid)
        do(target)
        with text_only(running.port) as text_port, prometheus(running.port, text_port) as api:
            both = Scraped(api)
            thrice = f"count_over_time({PREFIX}formats_everything_total[1m]) >= 3"
            until(lambda: len(both.query(thrice)) == 2, "both have been scraped thrice")
            yield both


@pytest.mark.parametrize("job", [TEXT, OPENMETRICS])
def test_up_is_1(scraped: Scraped, job: str) -> None:
    until(lambda: [value for _, value in scraped.query(f'up{{job="{job}"}}')] == [1], f"{job} is up", seconds=20)


def test_prometheus_finds_no_error(scraped: Scraped) -> None:
    def errors() -> list[str]:
        return [target["lastError"] for target in ask(f"{scraped.api}/targets?state=active")["activeTargets"]]

    until(lambda: errors() == ["", ""], "no scrape has failed", seconds=20)


@pytest.mark.parametrize(("job", "kind"), [(TEXT, "counter"), (OPENMETRICS, "unknown")])
def test_a_counter_without_total_is_of_the_type_that_its_format_allows(scraped: Scraped, job: str, kind: str) -> None:
    query = {"match_target": f'{{job="{job}"}}', "metric": f"{PREFIX}formats_operations"}

    (found,) = ask(f"{scraped.api}/targets/metadata?{urllib.parse.urlencode(query)}")

    assert found["type"] == kind


def test_series_are_the_same_in_both_formats(scraped: Scraped) -> None:
    text = scraped.series(TEXT)

    assert len(text) > 100
    assert text == scraped.series(OPENMETRICS)


def test_values_are_the_same_in_both_formats(scraped: Scraped) -> None:
    values = {
        job: {
            tuple(sorted((k, v) for k, v in labels.items() if k not in ("job", "instance"))): value
            for labels, value in scraped.query(f'{{job="{job}",__name__=~"{PREFIX}formats_.+"}}')
        }
        for job in (TEXT, OPENMETRICS)
    }

    assert values[TEXT] == values[OPENMETRICS]


def test_histogram_quantiles_can_be_asked_for(scraped: Scraped) -> None:
    found = scraped.query(f'histogram_quantile(0.5, {PREFIX}formats_powers_seconds_bucket{{job="{OPENMETRICS}"}})')

    assert [0 < value < 1e-4 for _, value in found] == [True]


@contextlib.contextmanager
def prometheus(port: int, text_port: int) -> Iterator[str]:
    """Run Debian's Prometheus over the two ports; give the address of its API."""
    own_port = free_port()
    jobs = "".join(
        f"- {{job_name: {job}, static_configs: [{{targets: ['127.0.0.1:{job_port}']}}]}}\n"
        for job, job_port in ((OPENMETRICS, port), (TEXT, text_port))
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prometheus.yml"
        file.write_text(f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{jobs}")
        command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder}/tsdb", "--log.level=warn"]
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{own_port}"], cwd=folder)
        try:
            until(lambda: is_ready(own_port), "Prometheus is ready")
            yield f"http://127.0.0.1:{own_port}/api/v1"
        finally:
            process.terminate()
            process.wait(30)


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


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=20) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)["data"]
