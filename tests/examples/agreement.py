"""What the tests of examples have in common: two accounts of one moment, and promtool's opinion."""

import subprocess
from collections.abc import Callable
from typing import TypeVar

from tests.product.exporter import Exporter, Samples, until
from tests.product.faults import fresh

Own = TypeVar("Own")


def at_rest(running: Exporter, own: Callable[[], Own]) -> tuple[Own, Samples]:
    """Return what a program says of itself and a scrape, between which it has counted nothing."""

    def agreed() -> tuple[Own, Samples] | None:
        before = own()
        samples = fresh(running)
        return (before, samples) if own() == before else None

    return until(agreed, "the program comes to rest")


def increase(before: Samples, after: Samples) -> Samples:
    """Return what was added to each sample; one that is new began at 0."""
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


def promtool_says(running: Exporter) -> list[str]:
    """Return what `promtool check metrics` has to say of a scrape: nothing, if all is well."""
    body = running.get().body
    done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode().splitlines()
