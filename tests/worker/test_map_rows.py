import struct

import pytest

from ebpf_userspace_exporter.config.model import BucketType, Counter, Decoder, Histogram, Label, ValueType
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, Rows, possible_cpus
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.map_rows import CountedRows, CounterRows, HistogramRows
from ebpf_userspace_exporter.worker.series import Ledger
from ebpf_userspace_exporter.worker.tally import Tally
from tests.worker.map_contents import SURROUNDINGS, per_cpu_rows, rows_of, rows_with_leaves

UINT, STRING = Decoder(name="uint"), Decoder(name="string")


class Read:
    """A metric's rows, and what became of them."""

    def __init__(self, metric: Counter | Histogram, labels: tuple[tuple[str, str], ...] = (("pid", "7"),)) -> None:
        self.ledger = Ledger()
        self.rows: CountedRows = (
            CounterRows(metric, labels, self.ledger, SURROUNDINGS)
            if isinstance(metric, Counter)
            else HistogramRows(metric, labels, self.ledger, SURROUNDINGS)
        )
        self.tally = Tally()

    def __call__(self, rows: dict[bytes, int] | Rows) -> dict[str, int]:
        """Return what each series has counted after this read, by the end of its key."""
        self.tally = Tally()
        self.rows.take(rows if isinstance(rows, Rows) else rows_of(rows), self.tally)
        return {
            series.key.split("{")[1].rsplit("}")[0].replace('"', ""): series.counted
            for series_set in self.ledger.waiting
            for series in series_set.members
        }


def counter(*labels: Label, value_type: ValueType | None = None, offset: int = 0) -> Counter:
    return Counter(
        name="calls_total", help="Calls.", table="calls", labels=labels, value_type=value_type, value_offset=offset
    )


def histogram(*labels: Label, first: int = 1, last: int = 2) -> Histogram:
    bucket = Label(name="bucket", size=4, decoders=(UINT,))
    return Histogram(
        name="size",
        table="sizes",
        labels=(*labels, bucket),
        bucket_type=BucketType.LINEAR,
        bucket_min=first,
        bucket_max=last,
    )


NAME = Label(name="name", size=4, decoders=(STRING,))
CPU = Label(name="cpu")
PADDED = Label(name="number", size=2, padding=2, decoders=(UINT,))


@pytest.mark.parametrize(
    ("reads", "counted"),
    [
        pytest.param([{b"a": 5}, {b"a": 5}], 5, id="nothing new"),
        pytest.param([{b"a": 5}, {b"a": 8}], 8, id="grows"),
        pytest.param([{b"a": 5}, {}], 5, id="deleted"),
        pytest.param([{b"a": 5}, {}, {b"a": 2}], 7, id="deleted and made again"),
        pytest.param([{b"a": 5}, {}, {b"a": 6}, {b"a": 9}], 14, id="deleted, made again and larger than before"),
        pytest.param([{b"a": 5}, {b"a": 2}, {b"a": 3}], 8, id="made again between two reads"),
        pytest.param([{b"a": 5}, {b"a": 0}, {b"a": 1}], 6, id="set to 0"),
        pytest.param([{b"a": 5, b"b": 7}], 12, id="two keys are summed"),
        pytest.param([{b"a": 5, b"b": 7}, {b"b": 9}], 14, id="one of two deleted"),
        pytest.param([{b"a": 5, b"b": 7}, {b"b": 9}, {b"a": 1, b"b": 1}], 16, id="and both made again"),
        pytest.param([{b"a": 2**64 - 1}, {b"a": 2**64 - 1, b"b": 2**64 - 1}], 2**65 - 2, id="more than 64 bits"),
    ],
)
def test_a_counter_never_falls_and_counts_nothing_twice(reads: list[dict[bytes, int]], counted: int) -> None:
    read = Read(counter())
    seen = [read({})["pid:7"], *(read(rows)["pid:7"] for rows in reads)]

    assert seen[-1] == counted
    assert seen == sorted(seen)


def test_what_a_reader_knows_again_counts_as_what_is_read_anew() -> None:
    """A histogram's array, whose zeros have no rows yet: the keys are one list, and what has not changed one object."""
    known, anew = Read(histogram()), Read(histogram())
    keys = [struct.pack("=I", number) for number in range(5)]
    shape = MapShape("rows", MapKind.ARRAY, 4, 8, 5, flags=0, built_fd=0)
    for numbers in ([0, 0, 0, 0, 0], [0, 1, 0, 5, 0], [0, 1, 4, 6, 0], [0, 1, 4, 6, 0], [0, 0, 4, 7, 0]):
        leaves = struct.pack("=5Q", *numbers)
        rows = Rows(shape, keys, leaves)

        assert known(rows) == known(rows) == anew(Rows(shape, list(keys), leaves))
        assert not known.tally.decode_errors

    assert known(rows) == {"pid:7,le:1.0": 1, "pid:7,le:2.0": 4, "pid:7,le:+Inf": 0, "pid:7": 7}


def test_labels_are_cut_from_the_key_without_their_padding() -> None:
    key = struct.pack("=4sHxxI", b"ab", 513, 9)

    counted = Read(counter(NAME, PADDED, Label(name="last", size=4, decoders=(UINT,))))({key: 3})

    assert counted == {"name:ab,number:513,last:9,pid:7": 3}


def test_keys_that_differ_in_padding_only_are_one_series() -> None:
    assert Read(counter(PADDED))({b"\1\0\0\0": 3, b"\1\0\xff\xff": 4}) == {"number:1,pid:7": 7}


def test_a_counter_without_labels_is_there_before_the_first_row() -> None:
    assert Read(counter())({}) == {"pid:7": 0}


def test_a_counter_with_labels_is_there_with_its_row_also_at_zero() -> None:
    read = Read(counter(NAME))

    assert read({}) == {}
    assert read({b"a\0\0\0": 0}) == {"name:a,pid:7": 0}


def test_a_bad_key_costs_that_key_and_is_told_once() -> None:
    read = Read(counter(PADDED))

    assert read({b"odd": 5, b"\1\0\0\0": 3, b"longer": 1}) == {"number:1,pid:7": 3}
    assert read.tally.decode_errors == {"calls_total": 2}
    assert read.tally.messages == ["calls_total: key: 3 bytes (6f 64 64), expected 4 bytes"]
    assert read({b"odd": 6, b"\1\0\0\0": 4, b"new": 1, b"longer": 1}) == {"number:1,pid:7": 4}
    assert (read.tally.decode_errors, read.tally.messages) == ({"calls_total": 1}, [])


def test_a_row_that_no_pattern_matches_is_no_error() -> None:
    only_a = Label(name="name", size=4, decoders=(STRING, Decoder(name="regexp", regexps=("^a",))))
    read = Read(counter(only_a))

    assert read({b"abc\0": 1, b"xyz\0": 2}) == {"name:abc,pid:7": 1}
    assert read.tally == Tally()


def test_a_histogram_has_all_buckets_as_soon_as_it_has_one() -> None:
    read = Read(histogram(NAME))

    assert read({}) == {}
    assert read({b"a\0\0\0\2\0\0\0": 4}) == {
        "name:a,pid:7,le:1.0": 0,
        "name:a,pid:7,le:2.0": 4,
        "name:a,pid:7,le:+Inf": 0,
        "name:a,pid:7": 0,
    }


def test_a_histogram_without_further_labels_is_there_before_the_first_row() -> None:
    assert Read(histogram())({}) == {"pid:7,le:1.0": 0, "pid:7,le:2.0": 0, "pid:7,le:+Inf": 0, "pid:7": 0}


def test_the_key_after_the_last_bucket_is_the_sum() -> None:
    assert Read(histogram())({b"\1\0\0\0": 2, b"\2\0\0\0": 1, b"\3\0\0\0": 99}) == {
        "pid:7,le:1.0": 2,
        "pid:7,le:2.0": 1,
        "pid:7,le:+Inf": 0,
        "pid:7": 99,
    }


def test_a_key_that_is_no_bucket_is_an_error_unless_it_counted_nothing() -> None:
    """An array has all its keys from the start."""
    read = Read(histogram())
    rows = {struct.pack("=I", key): 0 for key in range(64)}

    read(rows)
    assert read.tally == Tally()
    rows[struct.pack("=I", 0)] = rows[struct.pack("=I", 63)] = 1
    assert sum(read(rows).values()) == 0
    assert read.tally.decode_errors == {"size": 2}
    assert read.tally.messages == [
        "size: bucket: 4 bytes (00 00 00 00), expected the key of a bucket, or 3 for the sum"
    ]
    read(rows)
    assert read.tally == Tally()


def test_the_targets_labels_come_last_and_an_empty_text_stays() -> None:
    """Left out, it would make another set of labels of the same metric."""
    read = Read(counter(NAME), (("role", "worker"), ("zone", "")))

    assert read({b"a\0\0\0": 1}) == {"name:a,role:worker,zone:": 1}
    assert Read(counter(), ())({}) == {"": 0}


def test_metrics_of_one_table_each_read_their_own_place_of_it() -> None:
    rows = rows_with_leaves({b"a\0\0\0": struct.pack("=QhH", 5, -3, 9)}, leaf_bytes=12)

    assert Read(counter(NAME))(rows) == {"name:a,pid:7": 5}
    assert Read(counter(NAME, value_type=ValueType.U16, offset=10))(rows) == {"name:a,pid:7": 9}


def test_of_a_signed_counter_what_is_below_zero_counts_as_zero() -> None:
    read = Read(counter(NAME, value_type=ValueType.S16))
    numbers = [-5, 3, -2, 4]

    counted = [read(rows_with_leaves({b"a\0\0\0": struct.pack("=h", number)}, leaf_bytes=2)) for number in numbers]

    assert [each["name:a,pid:7"] for each in counted] == [0, 3, 3, 7]


@pytest.mark.skipif(possible_cpus() < 2, reason="one CPU has no other")
def test_each_cpu_counts_for_itself_where_it_is_a_label() -> None:
    read = Read(counter(NAME, CPU))
    key = b"a\0\0\0"

    assert read(per_cpu_rows({key: [0, 5]})) == {"name:a,cpu:1,pid:7": 5}, "a CPU that counted nothing has no series"
    assert read(per_cpu_rows({key: [2, 6]})) == {"name:a,cpu:1,pid:7": 6, "name:a,cpu:0,pid:7": 2}
    assert (
        read(per_cpu_rows({}))
        == read(per_cpu_rows({key: [0, 0]}))
        == {"name:a,cpu:1,pid:7": 6, "name:a,cpu:0,pid:7": 2}
    )
    assert read(per_cpu_rows({key: [1, 1]})) == {"name:a,cpu:1,pid:7": 7, "name:a,cpu:0,pid:7": 3}


@pytest.mark.skipif(possible_cpus() < 2, reason="one CPU has no other")
def test_with_the_cpu_as_only_label_any_key_will_do() -> None:
    assert Read(counter(CPU))(per_cpu_rows({b"a": [1, 2], b"long key": [3, 4]})) == {"cpu:0,pid:7": 4, "cpu:1,pid:7": 6}


def test_per_cpu_values_are_summed_where_the_cpu_is_no_label() -> None:
    shares = list(range(1, possible_cpus() + 1))

    assert Read(counter(NAME))(per_cpu_rows({b"a\0\0\0": shares})) == {"name:a,pid:7": sum(shares)}
