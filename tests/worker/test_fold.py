"""The totals of targets that are gone, added up as a reader of all their files would."""

import itertools
import math
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.web.families import Families
from ebpf_userspace_exporter.web.file_cache import FileCache, MetricFile
from ebpf_userspace_exporter.worker.file_names import FoldedKind, folded_file_name, metric_file_name, retired_file_name
from ebpf_userspace_exporter.worker.fold import FoldReport, fold
from ebpf_userspace_exporter.worker.metric_file import metric_key, read_metric_file, write_metric_file

LABEL = {"name": "gen", "size": 8, "decoders": [{"name": "uint"}]}
FAMILY = "userspace_exporter_pause"


def program(*, bucket_keys: tuple[int, ...] = (1, 2)) -> Program:
    """Return one with the counter gc_total{gen, service} and the histogram pause{service}."""
    buckets = {"name": "pause", "table": "h", "labels": [LABEL], "bucket_type": "fixed", "bucket_keys": bucket_keys}
    return Program.model_validate(
        {
            "name": "gc",
            "code": "x",
            "attachment": {"binary_name": "x"},
            "target_labels": {"service": "shop"},
            "metrics": {
                "counters": [{"name": "gc_total", "help": "", "table": "t", "labels": [LABEL]}],
                "histograms": [buckets],
            },
        }
    )


def counter(gen: str = "0") -> str:
    return metric_key("userspace_exporter_gc", "userspace_exporter_gc_total", [("gen", gen), ("service", "shop")], "")


def histogram(*counts: float, bounds: tuple[str, ...]) -> dict[str, float]:
    buckets = {
        metric_key(FAMILY, f"{FAMILY}_bucket", [("service", "shop"), ("le", bound)], ""): count
        for bound, count in zip(bounds, counts, strict=True)
    }
    return {**buckets, metric_key(FAMILY, f"{FAMILY}_sum", [("service", "shop")], ""): 1.5}


def write(path: Path, entries: Mapping[str, float]) -> None:
    write_metric_file(path, {key: (value, 0.0) for key, value in entries.items()}, None)


def retire(folder: Path, number: int, entries: Mapping[str, float], kind: FoldedKind = "counter") -> None:
    write(folder / retired_file_name(kind, "gc", number), entries)


def folded(folder: Path, *retired: int, kind: FoldedKind = "counter") -> tuple[FoldReport, dict[str, float]]:
    """Fold, put the result in place, and return it."""
    report = fold(program(), folder, retired, 99, None)
    path = folder / folded_file_name(kind, "gc")
    temporary = path.with_name(f"{path.name}.99.tmp")
    if not temporary.exists():
        return report, {}
    temporary.rename(path)
    return report, {key: value for key, (value, _) in read_metric_file(path).items()}


def exposed(folder: Path) -> float:
    """Return the one counter of a scrape."""
    files = [file for file in FileCache(folder).read() if isinstance(file, MetricFile)]
    ((family,), _) = Families().merged(files)
    (line,) = family.lines.decode().splitlines()
    return float(line.rpartition(" ")[2])


def test_a_sum_of_fractions_never_falls_by_the_least_bit_as_targets_go(tmp_path: Path) -> None:
    choice = random.Random(1)
    seen = []
    for number in range(1, 60):
        write(tmp_path / metric_file_name("counter", "gc", number), {counter(): choice.randrange(10**9) * 1e-9})
        seen.append(exposed(tmp_path))
        if number > 3:
            leaving = number - choice.randrange(3)
            path = tmp_path / metric_file_name("counter", "gc", leaving)
            if path.exists():
                path.rename(tmp_path / retired_file_name("counter", "gc", leaving))
                seen.append(exposed(tmp_path))
                folded(tmp_path, leaving)
                (tmp_path / retired_file_name("counter", "gc", leaving)).unlink()
                seen.append(exposed(tmp_path))

    assert all(before <= after for before, after in itertools.pairwise(seen))


def test_whole_numbers_are_added_up_exactly(tmp_path: Path) -> None:
    for number in range(1, 100):
        retire(tmp_path, number, {counter(): 2.0**45 + number})

    assert folded(tmp_path, *range(1, 100))[1] == {counter(): 99 * 2**45 + 4950}


def test_a_total_beyond_the_largest_number_stays_one(tmp_path: Path) -> None:
    for number in (1, 2):
        retire(tmp_path, number, {counter(): 1.7e308})

    assert math.isfinite(folded(tmp_path, 1, 2)[1][counter()])


def test_former_buckets_do_not_cost_the_counts_in_the_present_ones(tmp_path: Path) -> None:
    old = histogram(5, 5, 0, bounds=("1.0", "4.0", "+Inf"))
    new = histogram(1, 2, 3, bounds=("1.0", "2.0", "+Inf"))
    write(tmp_path / folded_file_name("histogram", "gc"), old)
    retire(tmp_path, 1, new, "histogram")

    assert folded(tmp_path, 1, kind="histogram")[1] == new


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({counter(): math.nan}, id="a total that is no number"),
        pytest.param({counter(): -1.0}, id="a total below 0"),
        pytest.param({counter(): math.inf}, id="an infinite total"),
        pytest.param({"noise": 1.0}, id="a key that is no JSON"),
        pytest.param({"[1,2]": 1.0}, id="a key of another shape"),
        pytest.param({'["a","b",[],"h"]': 1.0}, id="labels that are none"),
    ],
)
def test_a_file_that_no_reader_shows_costs_itself_alone(tmp_path: Path, bad: Mapping[str, float]) -> None:
    retire(tmp_path, 1, {counter("1"): 4.0, **bad})
    retire(tmp_path, 2, {counter(): 5.0})

    report, totals = folded(tmp_path, 1, 2)

    assert totals == {counter(): 5.0}
    assert len(report.unreadable) == 1
