"""What one would write with bcc and prometheus_client alone: bring labelled counters up to date with a map.

    bcc_refresh.py SERIES TIMES

Prints the CPU seconds of each time. PROMETHEUS_MULTIPROC_DIR is where the files go. It imports nothing of ours.
"""

import sys
import time

from bcc import BPF
from prometheus_client import Counter

CODE = "BPF_HASH(counts, u32);"


def main(series: int, times: int) -> None:
    """Count in every row, then read and store, over and over."""
    table = BPF(text=CODE)["counts"]
    calls = Counter("calls", "Calls", ["code", "pid"])
    known: dict[int, int] = {}
    for turn in range(1, times + 1):
        for code in range(series):
            table[table.Key(code)] = table.Leaf(turn)
        begin = time.process_time()
        for key, leaf in table.items():
            growth = leaf.value - known.get(key.value, 0)
            known[key.value] = leaf.value
            calls.labels(str(key.value), "4711").inc(growth)
        print(time.process_time() - begin)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
