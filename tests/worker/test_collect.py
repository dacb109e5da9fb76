import json
import os
import struct
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from ebpf_userspace_exporter.config.model import (
    BucketType,
    Combine,
    Counter,
    Decoder,
    Gauge,
    Histogram,
    Label,
    Metrics,
    Program,
)
from ebpf_userspace_exporter.config.names import PREFIX
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.worker.bpf.maps import Rows
from ebpf_userspace_exporter.worker.collect import Collector, CollectReport
from ebpf_userspace_exporter.worker.file_names import (
    GAUGE_KINDS,
    GaugeKind,
    metric_file_name,
    publish,
    temporary_file_name,
)
from ebpf_userspace_exporter.worker.metric_file import read_metric_file
from tests.worker.map_contents import SURROUNDINGS, rows_of

PID = 42
MANY = 1000
UINT, STRING = Decoder(name="uint"), Decoder(name="string")
NAME = Label(name="name", size=16, decoders=(STRING,))
BUCKET = Label(name="bucket", size=8, decoders=(UINT,))

Tables = dict[str, dict[bytes, int]]
Samples = dict[str, float]


def counter(name: str, *labels: Label, table: str = "calls", multiplier: float = 1.0) -> Counter:
    return Counter(name=name, help=f'What "{name}" is: ü\n', table=table, labels=labels, value_multiplier=multiplier)


def gauge(name: str, *labels: Label, combine: Combine = Combine.SUM) -> Gauge:
    return Gauge(name=name, help=name, table=name, labels=labels, combine=combine)


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


def program(*metrics: Counter | Gauge | Histogram, name: str = "gc total") -> Program:
    chosen = Metrics(
        counters=tuple(metric for metric in metrics if isinstance(metric, Counter)),
        gauges=tuple(metric for metric in metrics if isinstance(metric, Gauge)),
        histograms=tuple(metric for metric in metrics if isinstance(metric, Histogram)),
    )
    return Program(name=name, metrics=chosen, attachment=Selector(binary_name=("python3",)), code="")


def nothing_new(series: int, *, publish: bool = False) -> CollectReport:
    return CollectReport({}, {}, publish=publish, messages=(), series=series)


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

    def collector(
        self,
        configured: Program,
        *,
        pid: int = PID,
        generation: int = 1,
        inherit: bool = True,
        event_tables: Collection[str] = (),
    ) -> Collector:
        collector = Collector(
            configured,
            pid,
            self.path,
            labels=[("pid", str(pid))],
            surroundings=SURROUNDINGS,
            generation=generation,
            group=None,
            inherit=inherit,
            event_tables=event_tables,
        )
        self.collectors.append(collector)
        return collector

    def collect(self, collector: Collector, tables: Tables, max_series: int = MANY) -> CollectReport:
        return collector.collect(lambda table: rows_of(tables[table]), max_series)

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

    def gauges(self, configured: Program, kind: GaugeKind = "gauge") -> Samples:
        """Return the gauges of this target, by name and first label."""
        entries = read_metric_file(self.path / metric_file_name(kind, configured.name, PID))
        keys = {key: json.loads(key) for key in entries}
        return {
            f"{keys[key][1].removeprefix(PREFIX)}{{{','.join(list(keys[key][2].values())[:-1])}}}": value
            for key, (value, _) in entries.items()
        }

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
        assert directory.collect(collector, later) == nothing_new(3)

    assert (directory.path / metric_file_name("counter", configured.name, PID)).stat().st_ino == inode
    assert directory.samples() == {"calls_total{name=a}": 2, "calls_total{name=b}": 3} | buckets(
        "size", ",name=x", {3: 1}, total=0
    )


def test_a_table_of_two_metrics_is_read_once(directory: StateDirectory) -> None:
    configured = program(counter("calls_total", NAME), counter("all_calls_total"), counter("x", table="other"))
    read = []

    def read_table(table: str) -> Rows:
        read.append(table)
        return rows_of({name("a"): 2, name("b"): 3})

    directory.collector(configured).collect(read_table, MANY)
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

    assert report == nothing_new(3, publish=True)
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
    assert second == nothing_new(2)
    assert directory.samples() == {"calls_total{name=a}": 1} | buckets("size", "", {0: 1}, total=0)


def test_a_table_that_cannot_be_read_is_the_callers_error_and_loses_nothing(directory: StateDirectory) -> None:
    configured = program(counter("calls_total"), counter("hits", table="hits"))
    directory.generation(configured, 1, {"calls": {b"x": 5}, "hits": {b"x": 5}})
    collector = directory.collector(configured, generation=2)

    def read_table(table: str) -> Rows:
        if table == "hits":
            raise OSError(22, "Invalid argument")
        return rows_of({b"x": 6})

    with pytest.raises(OSError, match="Invalid argument"):
        collector.collect(read_table, MANY)
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

    def read_table(table: str) -> Rows:
        if table == "hits":
            raise BlockingIOError(11, "map hits changes faster than it can be read key by key")
        return rows_of({b"x": 6})

    reports = [collector.collect(read_table, MANY) for _ in range(2)]
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

    def read_table(table: str) -> Rows:
        if table == "hits":
            raise BlockingIOError(11, "map hits changes faster than it can be read key by key")
        return rows_of({b"x": 6})

    assert not collector.collect(read_table, MANY).publish
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
    assert second == third == nothing_new(5)
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


def test_without_room_for_all_series_the_file_before_stays_that_has_them(small_tmpfs: StateDirectory) -> None:
    configured = program(histogram("size", NAME))
    tables: Tables = {"size": {bucket(0, f"label {number}"): number for number in range(1, 4)}}
    before = small_tmpfs.generation(configured, 1, tables)
    ballast = small_tmpfs.path / "ballast"
    ballast.write_bytes(bytes(12 << 10))
    collector = small_tmpfs.collector(configured, generation=2)

    small_tmpfs.collect(collector, tables)
    small_tmpfs.publish(configured, generation=2)

    assert small_tmpfs.samples() == before
    ballast.unlink()
    assert small_tmpfs.collect(collector, {"size": {bucket(0, f"label {number}"): 9 for number in range(1, 4)}}).publish
    small_tmpfs.publish(configured, generation=2)
    assert small_tmpfs.samples().keys() == before.keys()
    assert small_tmpfs.samples()["size_count{name=label 1}"] == 9


def test_totals_outlive_the_worker_exactly_whatever_they_are_multiplied_by(directory: StateDirectory) -> None:
    configured = program(counter("wait_seconds_total", NAME, multiplier=1e-9), counter("cost", multiplier=1 / 3))
    counts = [999_999_999, 2**40 + 1, 2**40 + 1, 5, 2**52 + 1]
    seen = [
        directory.generation(configured, number, {"calls": {name("a"): count}}) for number, count in enumerate(counts)
    ]

    # 5 is less than before: the key was deleted and made again.
    totals = [999_999_999, 2**40 + 1, 2**40 + 1, 2**40 + 6, 2**40 + 2**52 + 2]
    assert seen == [{"wait_seconds_total{name=a}": total * 1e-9, "cost{}": total * (1 / 3)} for total in totals]


def test_events_are_shown_with_the_next_read_and_go_on_in_the_successor(directory: StateDirectory) -> None:
    configured = program(counter("opens_total", NAME, table="events", multiplier=0.1), counter("calls_total"))

    def events(generation: int, *texts: str) -> CollectReport:
        collector = directory.collector(configured, generation=generation, event_tables={"events"})
        for text in texts:
            collector.take_event("events", name(text) + b"more")
        report = directory.collect(collector, {"calls": {b"x": 3}})
        directory.publish(configured, generation=generation)
        collector.close()
        return report

    assert events(1, "a", "a", "b").series == 3
    assert directory.samples() == {"opens_total{name=a}": 0.2, "opens_total{name=b}": 0.1, "calls_total{}": 3}
    events(2, "a", "c")
    events(3)
    assert directory.samples() == {
        "opens_total{name=a}": pytest.approx(0.3, rel=1e-15),
        "opens_total{name=b}": 0.1,
        "opens_total{name=c}": 0.1,
        "calls_total{}": 3,
    }


def test_events_that_were_kept_are_those_of_the_successor_though_no_read_came_after_them(
    directory: StateDirectory,
) -> None:
    configured = program(counter("opens_total", NAME, table="events"), counter("calls_total"))
    collector = directory.collector(configured, event_tables={"events"})
    collector.take_event("events", name("a"))
    collector.keep_events()  # before the first read nothing can be known of a predecessor's
    assert directory.collect(collector, {"calls": {}}, max_series=3).publish
    directory.publish(configured)

    for text in ("a", "b", "b", "c"):
        collector.take_event("events", name(text))
        collector.keep_events()
    expected = {"opens_total{name=a}": 2, "opens_total{name=b}": 2, "calls_total{}": 0}
    assert directory.samples() == expected
    assert directory.generation(configured, 2, {"calls": {}, "events": {}}) == expected

    assert directory.collect(collector, {"calls": {}}, max_series=3).dropped == {"max_series": 1}


def test_a_file_that_is_written_anew_to_keep_events_is_published_with_the_next_read(directory: StateDirectory) -> None:
    configured = program(counter("opens_total", NAME, table="events"))
    collector = directory.collector(configured, event_tables={"events"})
    assert directory.collect(collector, {}).publish
    directory.publish(configured)
    (directory.path / metric_file_name("counter", configured.name, PID)).unlink()

    collector.take_event("events", name("a"))
    collector.keep_events()
    collector.keep_events()
    assert directory.collect(collector, {}).publish
    directory.publish(configured)
    assert directory.samples() == {"opens_total{name=a}": 1}
    assert not directory.collect(collector, {}).publish


def test_a_bad_event_is_in_the_next_report_also_where_the_maps_cannot_be_read(directory: StateDirectory) -> None:
    configured = program(counter("opens_total", NAME, table="events"), counter("calls_total"))
    collector = directory.collector(configured, event_tables={"events"})
    collector.take_event("events", b"short")
    collector.take_event("others", b"short")

    def read_table(table: str) -> Rows:
        raise OSError(22, "Invalid argument")

    with pytest.raises(OSError, match="Invalid argument"):
        collector.collect(read_table, MANY)

    assert directory.collect(collector, {"calls": {}}).decode_errors == {"opens_total": 1}
    assert directory.collect(collector, {"calls": {}}) == nothing_new(1)


def test_gauges_change_in_place_and_a_vanished_one_takes_a_new_file(directory: StateDirectory) -> None:
    configured = program(counter("calls_total"), gauge("open", NAME))
    collector = directory.collector(configured)
    path = directory.path / metric_file_name("gauge", configured.name, PID)

    def collect(gauges: dict[bytes, int]) -> tuple[bool, Samples, int]:
        report = directory.collect(collector, {"calls": {b"x": 1}, "open": gauges})
        directory.publish(configured)
        return report.publish, directory.gauges(configured), path.stat().st_ino

    _, first, inode = collect({name("a"): 5, name("b"): 6})
    assert first == {"open{a}": 5, "open{b}": 6}
    assert collect({name("a"): 3, name("b"): 6, name("c"): 1}) == (
        False,
        {"open{a}": 3, "open{b}": 6, "open{c}": 1},
        inode,
    )
    published, vanished, another = collect({name("c"): 1})
    assert (published, vanished) == (True, {"open{c}": 1})
    assert another != inode
    assert collect({name("c"): 2, name("a"): 9}) == (False, {"open{c}": 2, "open{a}": 9}, another)
    assert directory.samples() == {"calls_total{}": 1}, "what the stock collector reads"


def test_gauges_that_combine_otherwise_have_a_file_of_their_own(directory: StateDirectory) -> None:
    configured = program(
        *(gauge(f"{combine}_bytes", combine=combine) for combine in (Combine.SUM, Combine.MAX, Combine.MIN))
    )
    directory.generation(configured, 1, {f"{combine}_bytes": {b"x": 2, b"y": 5} for combine in ("sum", "max", "min")})

    assert {kind: directory.gauges(configured, kind) for kind in GAUGE_KINDS} == {
        "gauge": {"sum_bytes{}": 7},
        "gauge-max": {"max_bytes{}": 5},
        "gauge-min": {"min_bytes{}": 2},
    }


def test_a_successor_knows_nothing_of_gauges_that_are_gone(directory: StateDirectory) -> None:
    configured = program(gauge("open", NAME))
    directory.generation(configured, 1, {"open": {name("a"): 5, name("b"): 6}})
    directory.generation(configured, 2, {"open": {name("b"): 1}})

    assert directory.gauges(configured) == {"open{b}": 1}


def test_a_damaged_file_of_gauges_is_written_again(directory: StateDirectory) -> None:
    configured = program(gauge("open", NAME))
    collector = directory.collector(configured)
    directory.collect(collector, {"open": {name("a"): 5}})
    directory.publish(configured)
    os.truncate(directory.path / metric_file_name("gauge", configured.name, PID), 0)

    assert directory.collect(collector, {"open": {name("a"): 5}}).publish
    directory.publish(configured)
    assert directory.gauges(configured) == {"open{a}": 5}


def test_label_sets_beyond_the_limit_are_counted_once_and_shown_when_there_is_room(directory: StateDirectory) -> None:
    configured = program(counter("calls_total", NAME), histogram("size", NAME))
    collector = directory.collector(configured)
    tables: Tables = {
        "calls": {name(text): number for number, text in enumerate("abc", 1)},
        "size": {bucket(0, "x"): 1, bucket(1, "x"): 2},
    }

    first = directory.collect(collector, tables, max_series=2)
    directory.publish(configured)
    assert (first.series, first.dropped, len(first.messages)) == (2, {"max_series": 2}, 1)
    assert directory.samples() == {"calls_total{name=a}": 1, "calls_total{name=b}": 2}

    tables["calls"][name("c")] = 30
    assert directory.collect(collector, tables, max_series=2) == nothing_new(2)
    tables["calls"][name("d")] = 4
    again = directory.collect(collector, tables, max_series=0)
    assert (again.series, again.dropped, again.messages) == (2, {"max_series": 1}, ())
    assert directory.samples() == {"calls_total{name=a}": 1, "calls_total{name=b}": 2}

    assert directory.collect(collector, tables, max_series=3) == nothing_new(3)
    assert directory.collect(collector, tables, max_series=5) == nothing_new(5)
    assert directory.samples() == {
        f"calls_total{{name={text}}}": n for text, n in zip("abcd", (1, 2, 30, 4), strict=True)
    } | buckets("size", ",name=x", {0: 1, 1: 2}, total=0)


def test_label_sets_are_not_counted_as_dropped_while_the_limit_grows(directory: StateDirectory) -> None:
    """Workers that start together are offered little at first: what others have no use for comes soon after."""
    collector = directory.collector(program(counter("calls_total", NAME)), inherit=False)
    tables: Tables = {"calls": {name(text): 1 for text in "abcde"}}

    reports = [directory.collect(collector, tables, max_series=limit) for limit in (0, 1, 3, 3, 3)]

    assert [report.series for report in reports] == [0, 1, 3, 3, 3]
    assert [report.dropped for report in reports] == [{}, {}, {}, {"max_series": 2}, {}]
    assert [len(report.messages) for report in reports] == [0, 0, 0, 1, 0]


def test_what_a_predecessor_showed_stays_whatever_the_limit_is_now(directory: StateDirectory) -> None:
    configured = program(counter("calls_total", NAME))
    directory.generation(configured, 1, {"calls": {name("a"): 1, name("b"): 2}})
    collector = directory.collector(configured, generation=2)

    report = directory.collect(collector, {"calls": {name("c"): 3, name("b"): 4}}, max_series=1)
    directory.publish(configured, generation=2)
    os.truncate(directory.path / metric_file_name("counter", configured.name, PID), 0)
    assert directory.collect(collector, {"calls": {name("b"): 5}}, max_series=1).publish
    directory.publish(configured, generation=2)

    assert (report.series, report.dropped) == (2, {"max_series": 1})
    assert directory.samples() == {"calls_total{name=a}": 1, "calls_total{name=b}": 5}


def test_a_gauge_that_ends_makes_room_for_another(directory: StateDirectory) -> None:
    configured = program(gauge("open", NAME))
    collector = directory.collector(configured)
    reports = []
    for rows in ("abc", "abc", "bcd", "d", ""):
        reports.append(directory.collect(collector, {"open": {name(text): ord(text) for text in rows}}, max_series=2))
        directory.publish(configured)

    assert [report.dropped for report in reports] == [{"max_series": 1}, {}, {"max_series": 1}, {}, {}]
    assert [report.series for report in reports] == [2, 2, 2, 1, 0]
    assert [report.publish for report in reports] == [True, False, True, True, True]
    assert directory.gauges(configured) == {}
