"""Programs that count the garbage collections of whomever a selector means, and processes for it to choose from."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.product.exporter import Exporter, series
from tests.product.faults import fresh
from tests.product.lifecycle import QUICK
from tests.product.programs import gc_config
from tests.supervisor.selection.living import Living, living

RESCAN = (*QUICK, "--scan-interval", "200ms", "--rescan-interval", "1s")


def gc_program(attachment: Mapping[str, Any], name: str = "gc_total", **keys: Any) -> dict[str, Any]:
    """Return a program that counts collections of the processes that `attachment` means; `keys` are its other keys."""
    [program] = yaml.safe_load(gc_config(name, binary_name="nobody"))["programs"]
    return {**program, "attachment": attachment, **keys}


def config(*programs: Mapping[str, Any], **keys: Any) -> str:
    """Return a config of these programs; `keys` are those beside `programs`."""
    return yaml.safe_dump({**keys, "programs": list(programs)})


class Specimen(Living):
    """A Python that does what it is told, and collects garbage only then."""

    def collect(self, times: int) -> None:
        """Have it collect the youngest generation so often."""
        self.do(f"for _ in range({times}): gc.collect(0)")


@contextlib.contextmanager
def specimen(*arguments: str | bytes, **how: Any) -> Iterator[Specimen]:
    """Run one as `living` does."""
    with living(*arguments, **how) as target:
        target.do("import gc; gc.disable()")
        yield Specimen(target._process)


def targets(running: Exporter, program: str = "gc_total") -> int:
    """Return how many targets the program has, in whatever state."""
    return int(running.total("targets", name=program))


def enabled_pids(running: Exporter, program: str = "gc_total") -> set[int]:
    """Return for which processes a scrape shows the program as enabled."""
    return {int(dict(labels)["pid"]) for labels in running.values("enabled_programs", name=program)}


def counted(running: Exporter, pid: int, program: str = "gc_total") -> int | None:
    """Return the collections of the youngest generation that a scrape shows for that pid; None without a series."""
    value = fresh(running).get(series(program, gen=0, pid=pid))
    return None if value is None else int(value)
