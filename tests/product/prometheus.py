"""Debian's Prometheus, run over an exporter, and what it says of its scrapes, series and rules."""

import contextlib
import json
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.product.exporter import free_port, until

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one; its folder holds the log, which has warnings and errors alone."""

    address: str
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ask(self, path: str, **query: str) -> Any:
        """Return what the API answers below /api/v1/."""
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str, *, at: float | None = None) -> list[tuple[Labels, float]]:
        """Return labels and value of each series that the expression gives, now or at that Unix time."""
        return [(each["metric"], float(each["value"][1])) for each in self._result(expression, at)]

    def samples(self, selector: str, *, at: float | None = None) -> list[tuple[Labels, dict[float, float]]]:
        """Return labels, and values by their scrape's time, of each series that was scraped until then."""
        found = self._result(f"{selector}[1h]", at)
        return [(each["metric"], {time: float(value) for time, value in each["values"]}) for each in found]

    def own(self, pattern: str) -> dict[str, float]:
        """Return the metrics that it has of itself whose names contain the pattern, summed over their labels."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=20) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        totals: dict[str, float] = {}
        for sample in (sample for family in families for sample in family.samples if pattern in sample.name):
            totals[sample.name] = totals.get(sample.name, 0) + sample.value
        return totals

    def _result(self, expression: str, at: float | None) -> Any:
        when = {} if at is None else {"time": str(at)}
        return self.ask("query", query=expression, **when)["result"]


@contextlib.contextmanager
def prometheus(config: Mapping[str, Any]) -> Iterator[Prometheus]:
    """Run one with that config; it answers when this begins."""
    with tempfile.TemporaryDirectory() as folder:
        started = Prometheus(f"http://127.0.0.1:{free_port()}", Path(folder))
        file = started.folder / "prometheus.yml"
        file.write_text(json.dumps(config))  # which is YAML too
        command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder}/tsdb", "--log.level=warn"]
        command.append(f"--web.listen-address={started.address.removeprefix('http://')}")
        with (started.folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            until(lambda: _is_ready(started), "Prometheus is ready")
            yield started
        finally:
            process.terminate()
            process.wait(30)


def _is_ready(started: Prometheus) -> bool:
    try:
        with urllib.request.urlopen(f"{started.address}/-/ready", timeout=20) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
