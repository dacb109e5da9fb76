"""An application in one container and the exporter in another, and whether both count the same."""

import json
import subprocess
from dataclasses import dataclass

from tests.deploy.containers import Container
from tests.product.exporter import Samples, series, until

Collections = list[float]


@dataclass(frozen=True, slots=True)
class Pair:
    """The containers; the application has one worker."""

    app: Container
    exporter: Container

    def wait_attached(self) -> None:
        """Wait until the worker is watched."""
        until(self._is_attached, "the application's worker is attached")

    def collect(self) -> tuple[Collections, Collections]:
        """Have the application collect; return by generation how often it did, and how often a scrape says so."""
        own_before, counted_before = self._at_rest()
        for _ in range(30):
            self.app.get(8000, "/")
        own, counted = self._at_rest()
        return (
            [now - then for now, then in zip(own, own_before, strict=True)],
            [now - then for now, then in zip(counted, counted_before, strict=True)],
        )

    def scrape(self) -> Samples:
        """Return every sample of a scrape."""
        return self.exporter.scrape()

    def _is_attached(self) -> bool:
        try:
            pid, _ = self._own()
            return series("enabled_programs", name="gc", pid=pid) in self.scrape()
        except subprocess.CalledProcessError:
            return False  # one of them does not answer yet

    def _at_rest(self) -> tuple[Collections, Collections]:
        """Return what the worker says, and a scrape, between which it has not collected."""

        def agreed() -> tuple[Collections, Collections] | None:
            pid, own = self._own()
            samples = self.scrape()
            counted = [samples.get(series("gc_total", gen=generation, pid=pid), 0.0) for generation in range(3)]
            is_fresh = samples.get(series("stale_workers")) == 0
            return (own, counted) if is_fresh and self._own() == (pid, own) else None

        return until(agreed, "the application comes to rest")

    def _own(self) -> tuple[int, Collections]:
        answer = json.loads(self.app.get(8000, "/stats"))
        return answer["pid"], answer["collections"]
