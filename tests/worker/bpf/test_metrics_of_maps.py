"""What real maps hold is what the metric files show, over deleted keys and dead workers."""

import ctypes
import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.model import Combine, Counter, Decoder, Gauge, Label, Metrics, Program, ValueType
from ebpf_userspace_exporter.config.names import PREFIX
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, possible_cpus
from ebpf_userspace_exporter.worker.bpf.reading import read_map
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapElement, bpf
from ebpf_userspace_exporter.worker.collect import Collector
from ebpf_userspace_exporter.worker.file_names import kinds_of, metric_file_name, publish
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.metric_file import read_metric_file
from tests.worker.map_contents import SURROUNDINGS, per_cpu_leaves

pytestmark = pytest.mark.bpf

Update = Callable[[int, bytes, bytes], None]

KIND = Label(name="kind", size=4, decoders=(Decoder(name="uint"),))
CPU = Label(name="cpu")
# struct { u64 calls; u32 nanoseconds; s16 balance; u8 level; }
SIZES = MapShape("sizes", MapKind.HASH, 4, 16, 64, flags=0, built_fd=0)
SHARES = MapShape("shares", MapKind.PERCPU_HASH, 4, 8, 64, flags=0, built_fd=1)


def leaf(calls: int, nanoseconds: int, balance: int, level: int) -> bytes:
    return struct.pack("=QIhBx", calls, nanoseconds, balance, level)


PROGRAM = Program(
    name="sizes",
    metrics=Metrics(
        counters=(
            Counter(name="calls_total", table="sizes", labels=(KIND,)),
            Counter(
                name="wait_seconds_total",
                table="sizes",
                labels=(KIND,),
                value_type=ValueType.U32,
                value_offset=8,
                value_multiplier=1e-9,
            ),
            Counter(name="by_cpu_total", table="shares", labels=(KIND, CPU), value_multiplier=0.001),
            Counter(name="summed_total", table="shares", labels=(KIND,)),
        ),
        gauges=(
            Gauge(name="balance", table="sizes", labels=(KIND,), value_type=ValueType.S16, value_offset=12),
            Gauge(name="level", table="sizes", value_type=ValueType.U8, value_offset=14, combine=Combine.MAX),
        ),
    ),
    attachment=Selector(binary_name=("any",)),
    code="",
)


class Target:
    """Real maps, and workers that bring them to the files of a folder, one after another."""

    def __init__(self, folder: Path, maps: dict[str, int]) -> None:
        self._folder = folder
        self._maps = maps
        self._generation = 0

    @contextmanager
    def worker(self) -> Iterator[Callable[[], dict[str, float]]]:
        """Start a worker that goes on from the files; give what makes it read, and returns all values."""
        self._generation += 1
        generation, shapes = self._generation, {shape.name: shape for shape in (SIZES, SHARES)}
        collector = Collector(
            PROGRAM,
            7,
            self._folder,
            labels=(),
            surroundings=SURROUNDINGS,
            generation=generation,
            group=None,
            inherit=True,
        )
        folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)

        def collect() -> dict[str, float]:
            report = collector.collect(lambda table: read_map(self._maps[table], shapes[table]), 1000)
            assert not report.decode_errors
            publish(folder_fd, PROGRAM, 7, generation)
            return self._values()

        with closing(collector):
            yield collect
        os.close(folder_fd)

    def _values(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for kind in kinds_of(PROGRAM):
            for key, (value, _) in read_metric_file(self._folder / metric_file_name(kind, PROGRAM.name, 7)).items():
                _, sample, labels, _ = json.loads(key)
                values[" ".join([sample.removeprefix(PREFIX), *labels.values()])] = value
        return values


@pytest.fixture
def maps(create: Callable[[MapShape], int]) -> dict[str, int]:
    return {shape.name: create(shape) for shape in (SIZES, SHARES)}


@pytest.fixture
def target(tmp_path: Path, maps: dict[str, int]) -> Target:
    return Target(tmp_path, maps)


def key(kind: int) -> bytes:
    return struct.pack("=I", kind)


def delete(map_fd: int, kind: int) -> None:
    raw = ctypes.create_string_buffer(key(kind), 4)
    bpf(Command.MAP_DELETE_ELEM, MapElement(map_fd=map_fd, key=ctypes.addressof(raw)))


def test_counters_keep_and_gauges_forget_what_a_deleted_key_held(
    target: Target, maps: dict[str, int], update_map: Update
) -> None:
    update_map(maps["sizes"], key(1), leaf(5, 4_000_000_000, -30, 200))
    update_map(maps["sizes"], key(2), leaf(2**60, 1, 30, 7))
    kept = {"calls_total 1": 5, "wait_seconds_total 1": 4_000_000_000 * 1e-9}
    other = {"calls_total 2": 2**60, "wait_seconds_total 2": 1e-9, "balance 2": 30}

    with target.worker() as collect:
        assert collect() == {**kept, "balance 1": -30, **other, "level": 200}
        delete(maps["sizes"], 1)
        assert collect() == {**kept, **other, "level": 7}
    with target.worker() as collect:
        assert collect() == {**kept, **other, "level": 7}
        update_map(maps["sizes"], key(1), leaf(1, 1, 0, 0))
        made_again = {"calls_total 1": 6, "wait_seconds_total 1": 4_000_000_001 * 1e-9, "balance 1": 0}
        assert collect() == {**made_again, **other, "level": 7}
        delete(maps["sizes"], 1)
        delete(maps["sizes"], 2)
        assert collect() == {name: value for name, value in {**made_again, **other}.items() if "balance" not in name}


@pytest.mark.skipif(possible_cpus() < 2, reason="one CPU has no other")
def test_a_per_cpu_map_is_split_and_summed_over_restarts(
    target: Target, maps: dict[str, int], update_map: Update
) -> None:
    def store(*shares: int) -> None:
        update_map(maps["shares"], key(3), per_cpu_leaves(SHARES, shares))

    store(0, 7)
    with target.worker() as collect:
        assert collect() == {"by_cpu_total 3 1": 7 * 0.001, "summed_total 3": 7}
    store(2, 2**53)
    with target.worker() as collect:
        expected = {"by_cpu_total 3 0": 2 * 0.001, "by_cpu_total 3 1": 2**53 * 0.001, "summed_total 3": 2**53 + 2}
        assert collect() == expected
        delete(maps["shares"], 3)
        assert collect() == expected
    store(1, 0)
    with target.worker() as collect:
        assert collect() == expected | {"by_cpu_total 3 0": 3 * 0.001, "summed_total 3": float(2**53 + 3)}
