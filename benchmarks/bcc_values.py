"""Stores values by prometheus_client, reads maps by bcc, and prints the seconds that each took.

    bcc_values.py SERIES TIMES READS_OF_SLOTS READS_OF_ROWS

PROMETHEUS_MULTIPROC_DIR is where the files go. It imports nothing of ours.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

from bcc import BPF
from bcc.table import TableBase
from prometheus_client import Counter

CODE = "BPF_HISTOGRAM(slots, int, 64); BPF_HASH(rows, u32, u64, 10240);"
SIZES = {"slots": 64, "rows": 10_000}


def main(series: int, times: int, *reads: int) -> None:
    """Measure; a line each, a name and the seconds."""
    calls = Counter("calls", "Calls", ["code"])
    names = [str(code) for code in range(series)]
    children = [calls.labels(name) for name in names]

    def by_labels() -> None:
        for name in names:
            calls.labels(name).inc()

    def by_children() -> None:
        for child in children:
            child.inc()

    say("labels", by_labels, times, series)
    say("child", by_children, times, series)
    tables = BPF(text=CODE)
    for (name, size), often in zip(SIZES.items(), reads, strict=True):
        table = tables[name]
        for place in range(size):
            table[table.Key(place)] = table.Leaf(place)
        say(f"items {name}", partial(numbers, table), often)
        say(f"batch {name}", partial(numbers_in_batch, table), often)


def numbers(table: TableBase) -> list[tuple[int, int]]:
    """Return keys and leaves, each read by itself."""
    return [(key.value, leaf.value) for key, leaf in table.items()]


def numbers_in_batch(table: TableBase) -> list[tuple[int, int]]:
    """Return keys and leaves, read in batches; bcc gives numbers then."""
    return list(table.items_lookup_batch())


def say(name: str, act: Callable[[], object], times: int, share: int = 1) -> None:
    """Print the seconds of each time, or of a share of it."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        act()
        seconds.append((time.perf_counter() - begin) / share)
    print(f"{name}: {' '.join(map(str, seconds))}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
