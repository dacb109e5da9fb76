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

from ebpf_userspace_exporter.web import metric_files
from ebpf_userspace_exporter.web.metric_files import (
    Combine,
    Entry,
    Kind,
    MetricFile,
    MetricFileError,
    UnreadableFile,
    decode_entries,
    read_metric_files,
)
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


def test_file_of_the_stock_writer_is_read_back_in_label_order(state_directory: Path) -> None:
    labels = (("zone", "b"), ("area", "a"), ("pid", "7"))
    write_metric_file(state_directory / "counter_gc_7.db", {("gc", "gc_total", labels): 5.0}, help_text='Say "hi"\n\\')

    assert list(read_metric_files(state_directory)) == [
        MetricFile("counter_gc_7.db", Kind.COUNTER, (Entry("gc", "gc_total", labels, 'Say "hi"\n\\', 5.0),))
    ]


def test_key_of_the_stock_library_is_read() -> None:
    key = mmap_key("gc", "gc_total", ["b", "a"], ["ü", "\U0001f600"], "Help.")

    (entry,) = decode_entries(file_bytes(entry_bytes(key.encode(), 1.0)), Kind.COUNTER)

    assert dict(entry.labels) == {"b": "ü", "a": "\U0001f600"}


def test_histogram_entries_have_their_bound_apart_from_their_labels(state_directory: Path) -> None:
    values = histogram_values("size", (("pid", "7"),), {"1.0": 2.0, "+Inf": 0.0}, total=2.0)
    write_metric_file(state_directory / "histogram_size_7.db", values)

    (file,) = read_metric_files(state_directory)

    assert isinstance(file, MetricFile)
    assert [(entry.sample, entry.labels, entry.upper_bound, entry.value) for entry in file.entries] == [
        ("size_bucket", (("pid", "7"),), 1.0, 2.0),
        ("size_bucket", (("pid", "7"),), math.inf, 0.0),
        ("size_sum", (("pid", "7"),), None, 2.0),
    ]


def test_file_without_entries_is_no_error() -> None:
    assert list(decode_entries(file_bytes() + bytes(4096), Kind.COUNTER)) == []


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
        pytest.param(file_bytes(entry_bytes(b'"' + b"x" * (1 << 17) + b'"', 3.0)), id="key longer than allowed"),
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
def test_bad_counter_file_is_one_error(raw: bytes) -> None:
    with pytest.raises(MetricFileError):
        list(decode_entries(raw, Kind.COUNTER))


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
def test_bad_histogram_entry_is_an_error(key: bytes, value: float) -> None:
    with pytest.raises(MetricFileError):
        list(decode_entries(file_bytes(entry_bytes(key, value)), Kind.HISTOGRAM))


def test_noise_and_flipped_bytes_give_entries_or_one_error() -> None:
    noise = random.Random(2)
    for _ in range(2_000):
        raw = bytearray(GOOD)
        for _ in range(noise.randrange(1, 4)):
            raw[noise.randrange(len(raw))] = noise.randrange(256)
        for tried in (bytes(raw), noise.randbytes(noise.randrange(200))):
            try:
                list(decode_entries(tried, Kind.COUNTER))
            except MetricFileError:
                continue


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
        file.truncate(metric_files.MAX_FILE_BYTES + 1)


@pytest.mark.parametrize("make", [make_fifo, make_link, make_socket, Path.mkdir, make_oversized, Path.touch])
def test_what_is_no_metric_file_costs_itself_alone(state_directory: Path, make: Callable[[Path], None]) -> None:
    make(state_directory / "counter_bad_1.db")
    (state_directory / "counter_good_2.db").write_bytes(GOOD)

    bad, good = read_metric_files(state_directory)

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

    (outcome,) = read_metric_files(state_directory)

    assert isinstance(outcome, UnreadableFile) == (not name.startswith("counter_"))


@pytest.mark.parametrize(
    ("name", "combine"), [("gauge", Combine.SUM), ("gauge-max", Combine.MAX), ("gauge-min", Combine.MIN)]
)
def test_how_gauges_combine_is_in_the_name_of_their_file(state_directory: Path, name: str, combine: Combine) -> None:
    write_metric_file(state_directory / f"{name}_x-1_7.own", {("open", "open", (("pid", "7"),)): -2.0})

    (file,) = read_metric_files(state_directory)

    assert file == MetricFile(
        f"{name}_x-1_7.own", Kind.GAUGE, (Entry("open", "open", (("pid", "7"),), "Help.", -2.0),), combine
    )


def test_a_gauge_that_is_not_a_number_is_an_error() -> None:
    with pytest.raises(MetricFileError):
        list(decode_entries(file_bytes(entry_bytes(key_of("open", "open"), math.nan)), Kind.GAUGE))


def test_files_being_written_and_other_endings_are_passed_over(state_directory: Path) -> None:
    for name in ("counter_x_1.db.tmp", "counter_x_1.tmp", "lock", "control.sock"):
        (state_directory / name).write_bytes(b"noise")

    assert list(read_metric_files(state_directory)) == []


def test_file_removed_while_others_are_read_belongs_to_the_same_moment(state_directory: Path) -> None:
    for name in ("counter_a_1.db", "counter_b_1.db"):
        (state_directory / name).write_bytes(GOOD)
    outcomes = read_metric_files(state_directory)
    first = next(outcomes)
    (state_directory / "counter_b_1.db").unlink()

    assert [first.name, *(outcome.name for outcome in outcomes)] == ["counter_a_1.db", "counter_b_1.db"]


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

    assert [outcome.name for outcome in read_metric_files(state_directory)] == [
        "counter_supervisor.own",
        "gauge_supervisor.own",
        "counter_a_1.db",
        "gauge-max_a_1.own",
        "gauge_a_1.own",
        "histogram_a_1.db",
    ]


def test_missing_directory_is_one_unreadable_file(tmp_path: Path) -> None:
    (outcome,) = read_metric_files(tmp_path / "gone")

    assert outcome == UnreadableFile(str(tmp_path / "gone"), "No such file or directory")


def test_reading_leaves_no_descriptor(state_directory: Path) -> None:
    (state_directory / "counter_a_1.db").write_bytes(GOOD)
    os.mkfifo(state_directory / "counter_b_1.db")
    before = len(list(Path("/proc/self/fd").iterdir()))

    list(read_metric_files(state_directory))

    assert len(list(Path("/proc/self/fd").iterdir())) == before
