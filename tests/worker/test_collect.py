import os
import struct
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from ebpf_userspace_exporter.config.model import (
    BucketType,
    Counter,
    Decoder,
    Histogram,
    Label,
    Metrics,
    Program,
)
from ebpf_userspace_exporter.config.names import PREFIX
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.worker.collect import Collector, CollectReport
from ebpf_userspace_exporter.worker.file_names import metric_file_name, publish, temporary_file_name
from ebpf_userspace_exporter.worker.metric_file import read_metric_file

PID = 42
UINT, STRING = Decoder(name="uint"), Decoder(name="string")
NAME = Label(name="name", size=16, decoders=(STRING,))
BUCKET = Label(name="bucket", size=8, decoders=(UINT,))

Tables = dict[str, dict[bytes, int]]
Samples = dict[str, float]


def counter(name: str, *labels: Label, table: str = "calls") -> Counter:
    return Counter(name=name, help=f'What "{name}" is: ü\n', table=table, labels=labels)


def histogram(name: str, *labels: Label, multiplier: float = 1.0) -> Histogram:
    return Histogram(
        name=name,
        help=name,
        table=name,
        labels=(*labels, BUCKET),
        bucket_type=BucketType.EXP2,
        bucket_min=0,
        bucket_max=30,
        bucket_multiplier=multiplier,
    )


def program(*metrics: Counter | Histogram, name: str = "gc total") -> Program:
    chosen = Metrics(
        counters=tuple(metric for metric in metrics if isinstance(metric, Counter)),
        histograms=tuple(metric for metric in metrics if isinstance(metric, Histogram)),
    )
    return Program(name=name, metrics=chosen, attachment=Selector(binary_name=("python3",)), code="")


def name(text: str) -> bytes:
    return text.encode().ljust(16, b"\0")


def bucket(key: int, text: str | None = None) -> bytes:
    return (b"" if text is None else name(text)) + struct.pack("=Q", key)


class StateDirectory:
    """A state directory with its workers' collectors and the supervisor's renaming."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.collectors: list[Collector] = []
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def collector(self, configured: Program, *, pid: int = PID, generation: int = 1, inherit: bool = True) -> Collector:
        collector = Collector(configured, pid, self.path, generation=generation, group=None, inherit=inherit)
        self.collectors.append(collector)
        return collector

    def collect(self, collector: Collector, tables: Tables) -> CollectReport:
        return collector.collect(lambda table: tables[table].items())

    def publish(self, configured: Program, *, pid: int = PID, generation: int = 1) -> None:
        publish(self._descriptor, configured, pid, generation)

    def generation(self, configured: Program, number: int, tables: Tables, *, inherit: bool = True) -> Samples:
        """Return the samples after a new worker has read the tables once and died."""
        collector = self.collector(configured, generation=number, inherit=inherit)
        assert self.collect(collector, tables).publish
        self.publish(configured, generation=number)
        collector.close()
        return self.samples()

    def samples(self) -> Samples:
        """Return what a stock prometheus_client makes of the directory, prefix and this target's pid left out."""
        families = MultiProcessCollector(None, path=str(self.path)).collect()  # type: ignore[no-untyped-call]
        found = [sample for family in families for sample in family.samples]
        samples = {
            sample.name.removeprefix(PREFIX)
            + ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()) if value != str(PID)).join(
                "{}"
            ): (sample.value)
            for sample in found
        }
        assert len(samples) == len(found)
        assert all("pid" in sample.labels for sample in found)
        return samples

    def close(self) -> None:
        for collector in self.collectors:
            collector.close()
        os.close(self._descriptor)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StateDirectory]:
    directory = StateDirectory(tmp_path)
    yield directory
    directory.close()


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[StateDirectory]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", tmp_path], check=True)
    directory = StateDirectory(tmp_path)
    yield directory
    directory.close()
    subprocess.run(["umount", tmp_path], check=True)


def buckets(metric: str, labels: str, counts: dict[int, int], *, total: float, multiplier: float = 1.0) -> Samples:
    """Return the samples of a histogram with `counts` by map key."""
    samples = {}
    count = 0
    for key in range(31):
        count += counts.get(key, 0)
        bound = floatToGoString(2.0**key * multiplier)  # type: ignore[no-untyped-call]  # it has no types
        samples[f"{metric}_bucket{{le={bound}{labels}}}"] = float(count)
    labels = labels.removeprefix(",")
    return samples | {
        f"{metric}_bucket{{le=+Inf{labels and ',' + labels}}}": count,
        f"{metric}_count{{{labels}}}": count,
        f"{metric}_sum{{{labels}}}": total,
    }


def test_a_stock_collector_reads_counters_and_histograms(directory: StateDirectory) -> None:
    configured = program(
        counter("calls_total", NAME), counter("hits", table="hits"), histogram("size_bytes", NAME, multiplier=0.5)
    )
    tables: Tables = {
        "calls": {name("a"): 3, name('b\\"\n'): 2**40, name("ü"): 1},
        "hits": {b"x": 5, b"y": 6},
        "size_bytes": {bucket(0, "a"): 1, bucket(20, "a"): 2, bucket(30, "a"): 4, bucket(31, "a"): 99},
    }
    for pid in (PID, PID + 1):
        directory.collect(directory.collector(configured, pid=pid), tables)
        directory.publish(configured, pid=pid)

    expected: Samples = {}
    for other in ("", f"pid={PID + 1}"):
        suffix = other and f",{other}"
        expected |= {
            f"calls_total{{name=a{suffix}}}": 3,
            f'calls_total{{name=b\\"\\x0a{suffix}}}': 2**40,
            f"calls_total{{name=ü{suffix}}}": 1,
            f"hits{{{other}}}": 11,
        }
        expected |= buckets("size_bytes", f",name=a{suffix}", {0: 1, 20: 2, 30: 4}, total=49.5, multiplier=0.5)
    assert directory.samples() == expected
    families = MultiProcessCollector(None, path=str(directory.path)).collect()  # type: ignore[no-untyped-call]
    assert {family.name.removeprefix(PREFIX): family.type for family in families} == {
        "calls": "counter",
        "hits": "counter",
        "size_bytes": "histogram",
    }


def test_a_target_without_rows_has_files_and_what_needs_no_labels(directory: StateDirectory) -> None:
    configured = program(counter("calls_total", NAME), counter("hits"), histogram("size"), histogram("wait", NAME))

    samples = directory.generation(configured, 1, {"calls": {}, "size": {}, "wait": {}})

    assert samples == {"hits{}": 0} | buckets("size", "", {}, total=0)
    assert len(samples) == 1 + 34, "31 buckets, +Inf, count and sum"
    assert sorted(each.name for each in directory.path.iterdir()) == [
        metric_file_name("counter", configured.name, PID),
        metric_file_name("histogram", configured.name, PID),
    ]


def test_labels_are_in_the_files_in_their_order_with_pid_and_le_last(directory: StateDirectory) -> None:
    first, second = Label(name="z", size=1, decoders=(UINT,)), Label(name="a", size=1, decoders=(UINT,))
    configured = program(histogram("size", first, second))
    directory.generation(configured, 1, {"size": {b"\1\2" + bucket(0): 1}})

    keys = list(read_metric_file(directory.path / metric_file_name("histogram", configured.name, PID)))

    family, labels = f'["{PREFIX}size","{PREFIX}size', '{"z":"1","a":"2","pid":"42"'
    assert keys[0] == f'{family}_bucket",{labels},"le":"1.0"}},"size"]'
    assert keys[-1] == f'{family}_sum",{labels}}},"size"]'


def test_a_second_read_is_stored_in_place(directory: StateDirectory) -> None:
    configured = program(counter("calls_total", NAME), histogram("size", NAME))
    collector = directory.collector(configured)
    assert directory.collect(collector, {"calls": {name("a"): 1}, "size": {}}).publish
    directory.publish(configured)
    inode = (directory.path / metric_file_name("counter", configured.name, PID)).stat().st_ino

    later: Tables = {"calls": {name("a"): 2, name("b"): 3}, "size": {bucket(3, "x"): 1}}
    for _ in range(3):
        assert directory.collect(collector, later) == CollectReport({}, {}, publish=False, messages=())

    assert (directory.path / metric_file_name("counter", configured.name, PID)).stat().st_ino == inode
    assert directory.samples() == {"calls_total{name=a}": 2, "calls_total{name=b}": 3} | buckets(
        "size", ",name=x", {3: 1}, total=0
    )


def test_a_table_of_two_metrics_is_read_once(directory: StateDirectory) -> None:
    configured = program(counter("calls_total", NAME), counter("all_calls_total"), counter("x", table="other"))
    read = []

    def read_table(table: str) -> Iterable[tuple[bytes, int]]:
        read.append(table)
        yield name("a"), 2
        yield name("b"), 3

    directory.collector(configured).collect(read_table)
    directory.publish(configured)

    assert read == ["calls", "other"]
    assert directory.samples() == {
        "calls_total{name=a}": 2,
        "calls_total{name=b}": 3,
        "all_calls_total{}": 5,
        "x{}": 5,
    }


def test_nothing_is_seen_of_a_generation_before_it_is_published(directory: StateDirectory) -> None:
    configured = program(counter("calls_total"))
    directory.generation(configured, 1, {"calls": {b"x": 5}})

    directory.collect(directory.collector(configured, generation=2), {"calls": {b"x": 9}})
    assert directory.samples() == {"calls_total{}": 5}
    directory.publish(configured, generation=2)
    assert directory.samples() == {"calls_total{}": 9}


@pytest.mark.parametrize(
    ("generations", "values"),
    [
        pytest.param([{"a": 5}, {"a": 5}, {"a": 8}], [5, 5, 8], id="the map counted on"),
        pytest.param([{"a": 5}, {}, {}], [5, 5, 5], id="the key was deleted"),
        pytest.param([{"a": 5}, {"a": 2}, {"a": 3}], [5, 7, 8], id="and made again"),
        pytest.param([{"a": 5}, {}, {"a": 2}, {"a": 1}], [5, 5, 7, 8], id="again and again"),
    ],
)
def test_totals_outlive_the_worker(
    directory: StateDirectory, generations: list[dict[str, int]], values: list[float]
) -> None:
    configured = program(counter("calls_total", NAME))
    seen = [
        directory.generation(configured, number, {"calls": {name(key): count for key, count in rows.items()}})
        for number, rows in enumerate(generations)
    ]

    assert seen == [{"calls_total{name=a}": value} for value in values]


def test_a_worker_leaves_its_successor_what_deleted_keys_held(directory: StateDirectory) -> None:
    configured = program(counter("calls_total"), histogram("wait", multiplier=1e-9))
    collector = directory.collector(configured)
    for count in (10, 4, 6):
        directory.collect(collector, {"calls": {b"x": count}, "wait": {bucket(0): count, bucket(31): count * 10**9}})
    directory.publish(configured)
    collector.close()
    left = directory.samples()

    again = directory.generation(configured, 2, {"calls": {b"x": 6}, "wait": {bucket(0): 6, bucket(31): 6 * 10**9}})
    later = directory.generation(configured, 3, {"calls": {b"x": 7}, "wait": {bucket(0): 6, bucket(31): 7 * 10**9}})

    assert left == again == {"calls_total{}": 16} | buckets("wait", "", {0: 16}, total=16, multiplier=1e-9)
    assert later == {"calls_total{}": 17} | buckets("wait", "", {0: 16}, total=17, multiplier=1e-9)


def test_with_several_keys_a_total_that_went_back_stays(directory: StateDirectory) -> None:
    configured = program(counter("calls_total"))
    directory.generation(configured, 1, {"calls": {b"x": 5, b"y": 5}})

    assert directory.generation(configured, 2, {"calls": {b"x": 6, b"z": 1}}) == {"calls_total{}": 10}
    assert directory.generation(configured, 3, {"calls": {b"x": 8, b"z": 1}}) == {"calls_total{}": 12}


def test_another_process_or_definition_starts_from_zero(directory: StateDirectory) -> None:
    configured = program(counter("calls_total", NAME))
    directory.generation(configured, 1, {"calls": {name("a"): 5, name("b"): 1}})

    assert directory.generation(configured, 2, {"calls": {name("a"): 2}}, inherit=False) == {"calls_total{name=a}": 2}


@pytest.mark.parametrize("content", [b"", b"noise" * 100, bytes(4096)], ids=["empty", "noise", "zeros"])
def test_an_unreadable_predecessor_counts_as_none_and_is_told(directory: StateDirectory, content: bytes) -> None:
    configured = program(counter("calls_total"))
    path = directory.path / metric_file_name("counter", configured.name, PID)
    path.write_bytes(content)
    collector = directory.collector(configured)
    reports = [directory.collect(collector, {"calls": {b"x": 5}}) for _ in range(2)]
    directory.publish(configured)

    assert directory.samples() == {"calls_total{}": 5}
    assert [len(report.messages) for report in reports] == [1, 0]
    assert path.name in reports[0].messages[0]


@pytest.mark.parametrize("damage", ["unlink", "empty", "noise", "moved", "replaced"])
def test_a_damaged_file_is_written_again_from_memory(directory: StateDirectory, damage: str) -> None:
    configured = program(counter("calls_total", NAME), histogram("size"))
    collector = directory.collector(configured)
    tables: Tables = {"calls": {name("a"): 5, name("b"): 7}, "size": {bucket(1): 3}}
    directory.collect(collector, tables)
    directory.publish(configured)
    directory.collect(collector, {"calls": {name("b"): 8}, "size": {bucket(1): 3}})
    before = directory.samples()
    path = directory.path / metric_file_name("counter", configured.name, PID)
    match damage:
        case "unlink":
            path.unlink()
        case "empty":
            os.truncate(path, 0)
        case "moved":
            path.rename(directory.path / "elsewhere")
        case "replaced":
            os.link(path, directory.path / "elsewhere")
            path.unlink()
            path.write_bytes(b"")
        case _:
            path.write_bytes(os.urandom(1000))

    report = directory.collect(collector, {"calls": {name("b"): 8}, "size": {bucket(1): 3}})
    directory.publish(configured)

    assert report == CollectReport({}, {}, publish=True, messages=())
    assert (
        directory.samples()
        == before
        == {"calls_total{name=a}": 5, "calls_total{name=b}": 8} | buckets("size", "", {1: 3}, total=0)
    )
    assert not directory.collect(collector, {"calls": {}, "size": {}}).publish


def test_a_file_damaged_before_it_was_published_is_written_again(directory: StateDirectory) -> None:
    configured = program(counter("calls_total"))
    collector = directory.collector(configured)
    directory.collect(collector, {"calls": {b"x": 5}})
    os.truncate(directory.path / temporary_file_name("counter", configured.name, PID, 1), 0)

    assert directory.collect(collector, {"calls": {b"x": 6}}).publish
    directory.publish(configured)
    assert directory.samples() == {"calls_total{}": 6}


def test_bad_keys_are_counted_once_and_the_others_shown(directory: StateDirectory) -> None:
    configured = program(counter("calls_total", NAME), histogram("size"))
    collector = directory.collector(configured)
    tables: Tables = {"calls": {name("a"): 1, b"short": 9}, "size": {bucket(0): 1, bucket(32): 1, bucket(99): 1}}

    first, second = (directory.collect(collector, tables) for _ in range(2))
    directory.publish(configured)

    assert first.decode_errors == {"calls_total": 1, "size": 2}
    assert [message.partition(":")[0] for message in first.messages] == ["calls_total", "size"]
    assert second == CollectReport({}, {}, publish=False, messages=())
    assert directory.samples() == {"calls_total{name=a}": 1} | buckets("size", "", {0: 1}, total=0)


def test_a_table_that_cannot_be_read_is_the_callers_error_and_loses_nothing(directory: StateDirectory) -> None:
    configured = program(counter("calls_total"), counter("hits", table="hits"))
    directory.generation(configured, 1, {"calls": {b"x": 5}, "hits": {b"x": 5}})
    collector = directory.collector(configured, generation=2)

    def read_table(table: str) -> Iterable[tuple[bytes, int]]:
        yield b"x", 6
        if table == "hits":
            raise OSError(22, "Invalid argument")

    with pytest.raises(OSError, match="Invalid argument"):
        collector.collect(read_table)
    assert directory.collect(collector, {"calls": {b"x": 7}, "hits": {b"x": 7}}).publish
    directory.publish(configured, generation=2)
    assert directory.samples() == {"calls_total{}": 7, "hits{}": 7}


def test_a_table_that_changes_too_fast_to_be_read_keeps_its_values_and_costs_no_other(
    directory: StateDirectory,
) -> None:
    configured = program(counter("calls_total"), counter("hits", table="hits"))
    collector = directory.collector(configured)
    directory.collect(collector, {"calls": {b"x": 5}, "hits": {b"x": 5}})
    directory.publish(configured)

    def read_table(table: str) -> Iterable[tuple[bytes, int]]:
        if table == "hits":
            raise BlockingIOError(11, "map hits changes faster than it can be read key by key")
        return [(b"x", 6)]

    reports = [collector.collect(read_table) for _ in range(2)]
    assert directory.samples() == {"calls_total{}": 6, "hits{}": 5}
    assert [len(report.messages) for report in reports] == [1, 0]
    assert "map hits changes faster" in reports[0].messages[0]

    directory.collect(collector, {"calls": {b"x": 7}, "hits": {b"x": 7}})
    assert directory.samples() == {"calls_total{}": 7, "hits{}": 7}


def test_a_successor_that_cannot_read_all_at_first_leaves_the_file_and_then_counts_nothing_twice(
    directory: StateDirectory,
) -> None:
    configured = program(counter("calls_total"), counter("hits", table="hits"))
    directory.generation(configured, 1, {"calls": {b"x": 5}, "hits": {b"x": 5}})
    collector = directory.collector(configured, generation=2)

    def read_table(table: str) -> Iterable[tuple[bytes, int]]:
        if table == "hits":
            raise BlockingIOError(11, "map hits changes faster than it can be read key by key")
        return [(b"x", 6)]

    assert not collector.collect(read_table).publish
    assert directory.samples() == {"calls_total{}": 5, "hits{}": 5}

    assert directory.collect(collector, {"calls": {b"x": 7}, "hits": {b"x": 7}}).publish
    directory.publish(configured, generation=2)
    assert directory.samples() == {"calls_total{}": 7, "hits{}": 7}


def test_on_a_full_tmpfs_series_are_dropped_whole_and_come_when_there_is_room(small_tmpfs: StateDirectory) -> None:
    configured = program(histogram("size", NAME))
    ballast = small_tmpfs.path / "ballast"
    ballast.write_bytes(bytes(16 << 10))
    collector = small_tmpfs.collector(configured)
    tables: Tables = {"size": {bucket(0, f"label {number}"): number for number in range(1, 6)}}

    first, second = (small_tmpfs.collect(collector, tables) for _ in range(2))
    small_tmpfs.publish(configured)
    crowded = small_tmpfs.samples()
    ballast.unlink()
    third = small_tmpfs.collect(collector, tables)

    assert first.publish
    assert first.dropped == {"no_space": 2}
    assert "No space left on device" in first.messages[0]
    assert second == third == CollectReport({}, {}, publish=False, messages=())
    shown = [buckets("size", f",name=label {number}", {0: number}, total=0) for number in range(1, 6)]
    assert crowded == shown[0] | shown[1] | shown[2]
    assert small_tmpfs.samples() == shown[0] | shown[1] | shown[2] | shown[3] | shown[4]


def test_without_room_for_a_file_the_one_before_stays(small_tmpfs: StateDirectory) -> None:
    configured = program(counter("calls_total"))
    small_tmpfs.generation(configured, 1, {"calls": {b"x": 5}})
    ballast = small_tmpfs.path / "ballast"
    ballast.write_bytes(bytes(28 << 10))
    collector = small_tmpfs.collector(configured, generation=2)

    report = small_tmpfs.collect(collector, {"calls": {b"x": 6}})
    small_tmpfs.publish(configured, generation=2)

    assert report.dropped == {"no_space": 1}
    assert small_tmpfs.samples() == {"calls_total{}": 5}
    ballast.unlink()
    assert small_tmpfs.collect(collector, {"calls": {b"x": 7}}).publish
    small_tmpfs.publish(configured, generation=2)
    assert small_tmpfs.samples() == {"calls_total{}": 7}
