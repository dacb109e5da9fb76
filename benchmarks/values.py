"""What does it cost to store a value, and to read a map?

A stored value is a counter's sample in a metric file, beside prometheus_client's inc() in multiprocess mode, with and
without a child that was kept; all in one process, in turn. While both numbers of a file's series go to and fro between
two that differ in every byte, another process looks whether there is ever anything else. Maps are read as a worker
reads them, up to one number per key, beside bcc's items() and items_lookup_batch() of the same map, in bcc's process.
"""

import ctypes
import itertools
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.bcc_peer import peer_environment
from benchmarks.readings import print_conditions, print_table

from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map
from ebpf_userspace_exporter.worker.bpf.reading import MapReader
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapElement, bpf
from ebpf_userspace_exporter.worker.bpf.values import ValueReader
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.metric_file import MetricFile, Place, metric_key

SERIES = 100
RUNS = 300
STORES = 2_000_000  # that another process watches
SLOTS, ROWS = 64, 10_000
READS = {SLOTS: 1000, ROWS: 50}
ONE, OTHER = (struct.unpack("d", bytes([byte] * 8))[0] for byte in (0x11, 0x66))  # no mixture is one of the two
GOAL_STORED, GOAL_READ = 0.15, 15.0


def main() -> None:
    """Measure and print."""
    print_conditions()
    with tempfile.TemporaryDirectory(prefix="exporter-bench-", dir="/dev/shm") as folder, peer_environment() as peers:
        path = Path(folder, "counter_bench-12345678_4711.db")
        file = MetricFile.create(path, group=None)
        slots = file.slots(metric_key("a", "a", [("code", str(code))], "Help.") for code in range(SERIES))
        environment = {**peers, "PROMETHEUS_MULTIPROC_DIR": folder}
        counts = map(str, (SERIES, RUNS, READS[SLOTS], READS[ROWS]))
        command = [sys.executable, str(Path(__file__).with_name("bcc_values.py")), *counts]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as peer:
            answer, _ = peer.communicate()
        assert peer.returncode == 0
        lines = (line.partition(":") for line in answer.splitlines())
        theirs = {name: [float(word) for word in words.split()] for name, _, words in lines}
        stored = _store(file, slots)
        torn = _torn(path, file, slots[1])
        file.close()
    slots_read, rows_read = _read(MapKind.ARRAY, SLOTS), _read(MapKind.HASH, ROWS)
    rows = [
        _row("ours", stored),
        _row("prometheus_client, labels().inc()", theirs["labels"]),
        _row("prometheus_client, inc() of a child that was kept", theirs["child"]),
    ]
    columns = ["µs", "min", "median", "max"]
    print_table(f"A stored value, {RUNS} times {SERIES} values", columns, rows)
    for name, size, found in (("slots", SLOTS, slots_read), ("rows", ROWS, rows_read)):
        rows = [
            _row("ours", found),
            _row("bcc, items()", theirs[f"items {name}"]),
            _row("bcc, items_lookup_batch()", theirs[f"batch {name}"]),
        ]
        kind = "histogram" if name == "slots" else "hash"
        print_table(f"A {kind} of {size} {name} read as keys and numbers, {READS[size]} times", columns, rows)
    print(f"{1e6 * median(stored):.3f} µs a stored value, goal {GOAL_STORED} µs: {_verdict(stored, GOAL_STORED)};")
    print(f"{torn} torn values seen by another process in {STORES} stores, goal 0: {'missed' if torn else 'met'};")
    microseconds = 1e6 * median(slots_read)
    print(f"{microseconds:.1f} µs a read of {SLOTS} slots, goal {GOAL_READ} µs: {_verdict(slots_read, GOAL_READ)}")


def _store(file: MetricFile, slots: list[Place]) -> list[float]:
    """Return the seconds of a stored value, of many stores of all series, each with other numbers."""
    values = [float(number) for number in range(SERIES + RUNS)]
    shares = [(values[number : number + SERIES], values[:SERIES]) for number in range(RUNS)]
    return _timed(lambda number: file.store(slots, *shares[number]), RUNS, SERIES)


def _read(kind: MapKind, rows: int) -> list[float]:
    """Return the seconds of reads of a map in which one number has changed before each."""
    shape = MapShape("bench", kind, 4, 8, max_entries=rows if kind is MapKind.ARRAY else 10_240, flags=0, built_fd=0)
    map_fd = create_map(shape)
    reader, values = MapReader(map_fd, shape), ValueReader(shape)
    key, leaf = ctypes.c_uint32(), ctypes.c_uint64()
    row = MapElement(map_fd=map_fd, key=ctypes.addressof(key), value=ctypes.addressof(leaf))

    def put(place: int, number: int) -> None:
        key.value, leaf.value = place, number
        bpf(Command.MAP_UPDATE_ELEM, row)

    for place in range(rows):
        put(place, place)

    def read(_number: int) -> None:
        found = reader.read()
        assert len(list(zip(found.keys, values.totals(found), strict=True))) == rows

    seconds = _timed(read, READS[rows], before=lambda number: put(number % rows, number))
    reader.close()
    os.close(map_fd)
    return seconds


def _timed(
    act: Callable[[int], None], times: int, share: int = 1, before: Callable[[int], None] = lambda _number: None
) -> list[float]:
    seconds = []
    for number in range(times):
        before(number)
        begin = time.perf_counter()
        act(number)
        seconds.append((time.perf_counter() - begin) / share)
    return seconds


def _torn(path: Path, file: MetricFile, slot: Place) -> int:
    """Return how many values that were never stored another process has seen."""
    file.store([slot], [ONE], [ONE])
    code = (
        "import mmap, sys\n"
        "file = open(sys.argv[1], 'rb')\n"
        "mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).cast('d')\n"
        "place, torn, allowed = int(sys.argv[2]), 0, {float.fromhex(word) for word in sys.argv[3:]}\n"
        "print('begun', flush=True)\n"
        "while (number := mapped[place]) == number:\n"
        "    torn += number not in allowed\n"
        "print(torn)\n"
    )
    command = [sys.executable, "-c", code, str(path), str(slot.start // 8), ONE.hex(), OTHER.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "begun\n"
        for number in itertools.islice(itertools.cycle((ONE, OTHER)), STORES):
            file.store((slot,), (number,), (number,))
        file.store([slot], [float("nan")], [0.0])  # the end
        return int(reader.stdout.readline())


def _row(name: str, seconds: list[float]) -> list[str]:
    return [name, *(f"{1e6 * each:.2f}" for each in (min(seconds), median(seconds), max(seconds)))]


def _verdict(seconds: list[float], goal: float) -> str:
    return "met" if 1e6 * median(seconds) <= goal else "missed"


if __name__ == "__main__":
    main()
