import json
import math
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import mmap_key

from ebpf_userspace_exporter.web import file_cache
from ebpf_userspace_exporter.web.file_cache import FileCache, MetricFile, UnreadableFile
from ebpf_userspace_exporter.web.layouts import Combine
from ebpf_userspace_exporter.web.metric_keys import Kind, Labels
from tests.web.conftest import histogram_values, write_metric_file

KEY = json.dumps(["gc", "gc_total", {"generation": "0", "pid": "1"}, "Runs."]).encode()


def entry_bytes(key: bytes, value: float, *, key_bytes: int | None = None) -> bytes:
    padded = key + b" " * (8 - (len(key) + 4) % 8)
    return struct.pack(f"i{len(padded)}sdd", len(key) if key_bytes is None else key_bytes, padded, value, 0.0)


def file_bytes(*entries: bytes, used: int | None = None) -> bytes:
    body = b"".join(entries)
    return struct.pack("ii", 8 + len(body) if used is None else used, 0) + body


def key_of(family: str = "gc", sample: str = "gc_total", labels: object = None, help_text: object = "Help.") -> bytes:
    return json.dumps([family, sample, labels if labels is not None else {}, help_text]).encode()


GOOD = file_bytes(entry_bytes(KEY, 3.0))

Entries = list[tuple[str, Labels, float | None, float]]


def entries_of(outcome: MetricFile | UnreadableFile) -> Entries:
    """Return (metric, labels, upper bound, value) of all that a file holds."""
    assert isinstance(outcome, MetricFile), outcome
    return [
        (metric.name, *entry)
        for metric, values in zip(outcome.layout.metrics, outcome.values, strict=True)
        for entry in zip(metric.labels, metric.upper_bounds, values, strict=True)
    ]


def read(state_directory: Path) -> list[MetricFile | UnreadableFile]:
    return FileCache(state_directory).read()


def read_bytes(state_directory: Path, raw: bytes, kind: Kind = Kind.COUNTER) -> MetricFile | UnreadableFile:
    ending = "own" if kind is Kind.GAUGE else "db"
    (state_directory / f"{kind.value}_x_1.{ending}").write_bytes(raw)
    (outcome,) = read(state_directory)
    return outcome


def test_file_of_the_stock_writer_is_read_back_in_label_order(state_directory: Path) -> None:
    labels = (("zone", "b"), ("area", "a"), ("pid", "7"))
    write_metric_file(state_directory / "counter_gc_7.db", {("gc", "gc_total", labels): 5.0}, help_text='Say "hi"\n\\')

    (file,) = read(state_directory)

    assert entries_of(file) == [("gc_total", labels, None, 5.0)]
    assert isinstance(file, MetricFile)
    assert (file.name, file.layout.kind, file.layout.metrics[0].help) == (
        "counter_gc_7.db",
        Kind.COUNTER,
        'Say "hi"\n\\',
    )


def test_key_of_the_stock_library_is_read(state_directory: Path) -> None:
    key = mmap_key("gc", "gc_total", ["b", "a"], ["ü", "\U0001f600"], "Help.")

    ((_, labels, _, _),) = entries_of(read_bytes(state_directory, file_bytes(entry_bytes(key.encode(), 1.0))))

    assert dict(labels) == {"b": "ü", "a": "\U0001f600"}


def test_histogram_entries_have_their_bound_apart_from_their_labels(state_directory: Path) -> None:
    values = histogram_values("size", (("pid", "7"),), {"1.0": 2.0, "+Inf": 0.0}, total=2.0)
    write_metric_file(state_directory / "histogram_size_7.db", values)

    (file,) = read(state_directory)

    assert entries_of(file) == [
        ("size", (("pid", "7"),), 1.0, 2.0),
        ("size", (("pid", "7"),), math.inf, 0.0),
        ("size", (("pid", "7"),), None, 2.0),
    ]


def test_file_without_entries_is_no_error(state_directory: Path) -> None:
    assert entries_of(read_bytes(state_directory, file_bytes() + bytes(4096))) == []


def test_file_larger_than_expected_is_read_whole(state_directory: Path) -> None:
    entries = [entry_bytes(key_of(labels={"n": f"{number:0500}"}), number) for number in range(1000)]

    found = entries_of(read_bytes(state_directory, file_bytes(*entries) + bytes(4096)))

    assert [value for _, _, _, value in found] == [*range(1000)]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x10\x00\x00", id="shorter than the header"),
        pytest.param(bytes(4096), id="zeros"),
        pytest.param(GOOD[:-1], id="torn in the last value"),
        pytest.param(GOOD[:8], id="torn after the header"),
        pytest.param(file_bytes(entry_bytes(KEY, 3.0), used=-1), id="negative used"),
        pytest.param(file_bytes(entry_bytes(KEY, 3.0), used=2**31 - 1), id="used of 2 GiB"),
        pytest.param(file_bytes(entry_bytes(KEY, 3.0), used=len(GOOD) - 8), id="used within an entry"),
        pytest.param(file_bytes(entry_bytes(KEY, 3.0), b"ab"), id="rest too short for a length"),
        pytest.param(file_bytes(entry_bytes(KEY, 3.0, key_bytes=-4)), id="negative key length"),
        pytest.param(file_bytes(entry_bytes(KEY, 3.0, key_bytes=0)), id="key length 0"),
        pytest.param(file_bytes(entry_bytes(KEY, 3.0, key_bytes=2**31 - 1)), id="key length of 2 GiB"),
        pytest.param(file_bytes(entry_bytes(b'"' + b"x" * (1 << 20) + b'"', 3.0)), id="key longer than allowed"),
        pytest.param(file_bytes(entry_bytes(KEY, 3.0), entry_bytes(b"\xff\xfe[", 1.0)), id="second key is not UTF-8"),
        pytest.param(file_bytes(entry_bytes(b"{", 1.0)), id="not JSON"),
        pytest.param(file_bytes(entry_bytes(b"[" * 60_000, 1.0)), id="nested deeply"),
        pytest.param(file_bytes(entry_bytes(b"1" * 5_000, 1.0)), id="a huge number"),
        pytest.param(file_bytes(entry_bytes(b"{}", 1.0)), id="not a list"),
        pytest.param(file_bytes(entry_bytes(b'["a", "a", {}]', 1.0)), id="three fields"),
        pytest.param(file_bytes(entry_bytes(key_of(labels=[]), 1.0)), id="labels are a list"),
        pytest.param(file_bytes(entry_bytes(key_of(labels={"a": 1}), 1.0)), id="label is a number"),
        pytest.param(file_bytes(entry_bytes(key_of(labels={"a b": "1"}), 1.0)), id="label name with a space"),
        pytest.param(file_bytes(entry_bytes(key_of(labels={"__name__": "1"}), 1.0)), id="reserved label name"),
        pytest.param(file_bytes(entry_bytes(key_of(labels={"a": "\ud800"}), 1.0)), id="half a surrogate pair"),
        pytest.param(file_bytes(entry_bytes(key_of(help_text="\udfff"), 1.0)), id="half a surrogate pair in the help"),
        pytest.param(file_bytes(entry_bytes(key_of(help_text=None), 1.0)), id="help is null"),
        pytest.param(file_bytes(entry_bytes(key_of(family="g c", sample="g c"), 1.0)), id="name with a space"),
        pytest.param(file_bytes(entry_bytes(key_of(sample="x\ny"), 1.0)), id="name with a newline"),
        pytest.param(file_bytes(entry_bytes(key_of(sample="other_total"), 1.0)), id="sample of another family"),
        pytest.param(file_bytes(entry_bytes(KEY, math.nan)), id="not a number"),
        pytest.param(file_bytes(entry_bytes(KEY, -1.0)), id="negative counter"),
    ],
)
def test_bad_counter_file_is_unreadable_whether_or_not_it_was_good_before(state_directory: Path, raw: bytes) -> None:
    assert isinstance(read_bytes(state_directory, raw), UnreadableFile)
    files = FileCache(state_directory)
    (state_directory / "counter_x_1.db").write_bytes(GOOD)
    assert isinstance(files.read()[0], MetricFile)
    (state_directory / "counter_x_1.db").write_bytes(raw)
    assert isinstance(files.read()[0], UnreadableFile)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param(key_of("h", "h_bucket", {}), 1.0, id="bucket without le"),
        pytest.param(key_of("h", "h_bucket", {"le": "many"}), 1.0, id="le is no number"),
        pytest.param(key_of("h", "h_bucket", {"le": "NaN"}), 1.0, id="le is not a number"),
        pytest.param(key_of("h", "h_bucket", {"le": "1"}), 1.5, id="half a count"),
        pytest.param(key_of("h", "h_bucket", {"le": "1"}), math.inf, id="infinite count"),
        pytest.param(key_of("h", "h_bucket", {"le": "1"}), -1.0, id="negative count"),
        pytest.param(key_of("h", "h_sum", {}), math.nan, id="sum is not a number"),
        pytest.param(key_of("h", "h_sum", {"le": "1"}), 1.0, id="sum with le"),
        pytest.param(key_of("h", "h_count", {}), 1.0, id="count, which readers derive"),
        pytest.param(key_of("h", "h", {}), 1.0, id="no suffix"),
    ],
)
def test_bad_histogram_entry_is_an_error(state_directory: Path, key: bytes, value: float) -> None:
    good = entry_bytes(key_of("h", "h_bucket", {"le": "1"}), 1.0), entry_bytes(key_of("h", "h_sum", {}), 1.0)
    assert len(entries_of(read_bytes(state_directory, file_bytes(*good), Kind.HISTOGRAM))) == 2

    raw = file_bytes(*good, entry_bytes(key, value))

    assert isinstance(read_bytes(state_directory, raw, Kind.HISTOGRAM), UnreadableFile)


def test_noise_and_flipped_bytes_are_read_as_if_for_the_first_time(state_directory: Path) -> None:
    noise = random.Random(2)
    files = FileCache(state_directory)
    two = file_bytes(entry_bytes(KEY, 3.0), entry_bytes(key_of(), 4.0))
    for _ in range(2_000):
        raw = bytearray(noise.choice([GOOD, two]))
        for _ in range(noise.randrange(4)):
            raw[noise.randrange(len(raw))] = noise.randrange(256)
        for tried in (bytes(raw), noise.randbytes(noise.randrange(200))):
            first = read_bytes(state_directory, tried)
            (again,) = files.read()
            assert again == first if isinstance(first, UnreadableFile) else entries_of(again) == entries_of(first)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    target.write_bytes(GOOD)
    path.symlink_to(target)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def make_oversized(path: Path) -> None:
    with path.open("wb") as file:
        file.write(GOOD)
        file.truncate(file_cache.MAX_FILE_BYTES + 1)


@pytest.mark.parametrize("make", [make_fifo, make_link, make_socket, Path.mkdir, make_oversized, Path.touch])
def test_what_is_no_metric_file_costs_itself_alone(state_directory: Path, make: Callable[[Path], None]) -> None:
    make(state_directory / "counter_bad_1.db")
    (state_directory / "counter_good_2.db").write_bytes(GOOD)

    bad, good = read(state_directory)

    assert isinstance(bad, UnreadableFile)
    assert bad.name == "counter_bad_1.db"
    assert isinstance(good, MetricFile)
    assert good.name == "counter_good_2.db"


@pytest.mark.parametrize(
    "name",
    [
        "summary_x_1.db",
        "gauge_x_1.db",
        "gauge-max_x_1.db",
        "gauge-avg_x_1.own",
        "gauge-_x_1.own",
        "counter-max_x_1.db",
        "histogram-min_x_1.own",
        "x.db",
        "Counter_x.db",
        "counter_x\udcff.db",
    ],
)
def test_file_name_of_no_kind_is_unreadable(state_directory: Path, name: str) -> None:
    (state_directory / name).write_bytes(GOOD)

    (outcome,) = read(state_directory)

    assert isinstance(outcome, UnreadableFile) == (not name.startswith("counter_"))


@pytest.mark.parametrize(
    ("name", "combine"), [("gauge", Combine.SUM), ("gauge-max", Combine.MAX), ("gauge-min", Combine.MIN)]
)
def test_how_gauges_combine_is_in_the_name_of_their_file(state_directory: Path, name: str, combine: Combine) -> None:
    write_metric_file(state_directory / f"{name}_x-1_7.own", {("open", "open", (("pid", "7"),)): -2.0})

    (file,) = read(state_directory)

    assert entries_of(file) == [("open", (("pid", "7"),), None, -2.0)]
    assert isinstance(file, MetricFile)
    assert (file.layout.kind, file.layout.combine) == (Kind.GAUGE, combine)


def test_a_gauge_that_is_not_a_number_is_an_error(state_directory: Path) -> None:
    key = key_of("open", "open")
    infinities = file_bytes(entry_bytes(key, math.inf), entry_bytes(key, -math.inf))

    assert len(entries_of(read_bytes(state_directory, infinities, Kind.GAUGE))) == 2
    raw = file_bytes(entry_bytes(key, 1.0), entry_bytes(key, math.nan))
    assert isinstance(read_bytes(state_directory, raw, Kind.GAUGE), UnreadableFile)


def test_files_being_written_and_other_endings_are_passed_over(state_directory: Path) -> None:
    for name in ("counter_x_1.db.tmp", "counter_x_1.tmp", "lock", "control.sock"):
        (state_directory / name).write_bytes(b"noise")

    assert read(state_directory) == []


def test_file_in_which_nothing_changed_is_the_same_object(state_directory: Path) -> None:
    for name in ("counter_a_1.db", "counter_b_1.db"):
        (state_directory / name).write_bytes(GOOD)
    files = FileCache(state_directory)
    a_before, b_before = files.read()
    (state_directory / "counter_b_1.db").write_bytes(file_bytes(entry_bytes(KEY, 4.0)))

    a_after, b_after = files.read()

    assert a_after is a_before
    assert isinstance(b_before, MetricFile)
    assert isinstance(b_after, MetricFile)
    assert b_after.layout is b_before.layout
    assert entries_of(b_after) == [("gc_total", (("generation", "0"), ("pid", "1")), None, 4.0)]


def test_metrics_that_have_not_grown_keep_their_layout(state_directory: Path) -> None:
    path = state_directory / "counter_a_1.db"
    path.write_bytes(file_bytes(entry_bytes(key_of("a", "a"), 1.0), entry_bytes(key_of("b", "b"), 2.0)))
    files = FileCache(state_directory)
    (before,) = files.read()
    one_more = entry_bytes(key_of("b", "b", {"x": "1"}), 3.0), entry_bytes(key_of("c", "c"), 4.0)
    path.write_bytes(file_bytes(entry_bytes(key_of("a", "a"), 5.0), entry_bytes(key_of("b", "b"), 6.0), *one_more))

    (after,) = files.read()

    assert entries_of(after) == [
        ("a", (), None, 5.0),
        ("b", (), None, 6.0),
        ("b", (("x", "1"),), None, 3.0),
        ("c", (), None, 4.0),
    ]
    assert isinstance(before, MetricFile)
    assert isinstance(after, MetricFile)
    assert after.layout.metrics[0] is before.layout.metrics[0]


def test_other_keys_in_the_same_place_are_noticed(state_directory: Path) -> None:
    path = state_directory / "counter_a_1.db"
    files = FileCache(state_directory)
    for name in ("a", "b"):
        path.write_bytes(file_bytes(entry_bytes(key_of(name, name), 1.0)))

        assert entries_of(files.read()[0]) == [(name, (), None, 1.0)]


def test_file_that_is_cut_or_removed_is_read_without_harm(state_directory: Path) -> None:
    path = state_directory / "counter_a_1.db"
    entries = [entry_bytes(key_of(labels={"n": str(number)}), 1.0) for number in range(1000)]
    path.write_bytes(file_bytes(*entries))
    files = FileCache(state_directory)
    files.read()

    os.truncate(path, 4096)
    assert files.read() == [UnreadableFile("counter_a_1.db", "torn: its header does not fit its size")]
    path.write_bytes(file_bytes(*entries[:10]))
    assert len(entries_of(files.read()[0])) == 10
    path.unlink()
    assert files.read() == []


def test_the_supervisors_files_come_first(state_directory: Path) -> None:
    for name in (
        "counter_a_1.db",
        "counter_supervisor.own",
        "gauge-max_a_1.own",
        "gauge_a_1.own",
        "histogram_a_1.db",
        "gauge_supervisor.own",
    ):
        (state_directory / name).write_bytes(file_bytes())

    assert [outcome.name for outcome in read(state_directory)] == [
        "counter_supervisor.own",
        "gauge_supervisor.own",
        "counter_a_1.db",
        "gauge-max_a_1.own",
        "gauge_a_1.own",
        "histogram_a_1.db",
    ]


def test_missing_directory_is_one_unreadable_file(tmp_path: Path) -> None:
    (outcome,) = read(tmp_path / "gone")

    assert outcome == UnreadableFile(str(tmp_path / "gone"), "No such file or directory")


def test_reading_leaves_no_descriptor(state_directory: Path) -> None:
    (state_directory / "counter_a_1.db").write_bytes(GOOD)
    os.mkfifo(state_directory / "counter_b_1.db")
    before = len(list(Path("/proc/self/fd").iterdir()))

    read(state_directory)

    assert len(list(Path("/proc/self/fd").iterdir())) == before
