"""Metrics that the code's maps cannot feed are refused with words on what to change."""

import pytest

from ebpf_userspace_exporter.config.model import (
    BucketType,
    Counter,
    Decoder,
    Gauge,
    Histogram,
    Label,
    Metrics,
    Program,
    ValueType,
)
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.worker.bpf.maps import MapKind
from ebpf_userspace_exporter.worker.build.table_checks import check_metrics, room_warnings
from ebpf_userspace_exporter.worker.image import MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

UINT = Decoder(name="uint")
KEY = Label(name="kind", size=4, padding=4, decoders=(UINT,))
CPU = Label(name="cpu")
Metric = Counter | Gauge | Histogram


def check(metric: Metric, kind: MapKind, *, key_bytes: int = 8, leaf_bytes: int = 8) -> None:
    metrics = Metrics(
        counters=tuple(each for each in [metric] if isinstance(each, Counter)),
        gauges=tuple(each for each in [metric] if isinstance(each, Gauge)),
        histograms=tuple(each for each in [metric] if isinstance(each, Histogram)),
    )
    program = Program(name="p", metrics=metrics, attachment=Selector(binary_name=("x",)), code="")
    check_metrics(program, [MapShape("rows", kind, key_bytes, leaf_bytes, 64, flags=0, built_fd=0)])


def counter(
    *labels: Label, value_type: ValueType | None = None, offset: int = 0, multiplier: float = 1.0, table: str = "rows"
) -> Counter:
    return Counter(
        name="calls_total",
        table=table,
        labels=labels,
        value_type=value_type,
        value_offset=offset,
        value_multiplier=multiplier,
    )


def gauge(*labels: Label, value_type: ValueType | None = None, offset: int = 0) -> Gauge:
    return Gauge(name="open_files", table="rows", labels=labels, value_type=value_type, value_offset=offset)


HISTOGRAM = Histogram(
    name="size",
    table="rows",
    labels=(Label(name="bucket", size=8, decoders=(UINT,)),),
    bucket_type=BucketType.EXP2,
    bucket_max=3,
)


@pytest.mark.parametrize(
    ("metric", "kind", "leaf_bytes"),
    [
        pytest.param(counter(), MapKind.LRU_HASH, 4, id="a counter without labels"),
        pytest.param(counter(KEY, value_type=ValueType.S16, offset=6), MapKind.HASH, 8, id="the end of a leaf"),
        pytest.param(gauge(KEY, offset=16), MapKind.PERCPU_HASH, 20, id="the rest of a leaf"),
        pytest.param(gauge(KEY, value_type=ValueType.U8, offset=2), MapKind.HASH, 3, id="a leaf of an odd size"),
        pytest.param(counter(KEY, CPU), MapKind.PERCPU_HASH, 8, id="by CPU"),
        pytest.param(gauge(CPU), MapKind.PERCPU_ARRAY, 8, id="by CPU alone"),
        pytest.param(HISTOGRAM, MapKind.PERCPU_HASH, 4, id="a histogram"),
        pytest.param(counter(KEY), MapKind.PERF_EVENT_ARRAY, 4, id="perf events"),
        pytest.param(counter(KEY, KEY), MapKind.RINGBUF, 0, id="a ring buffer"),
    ],
)
def test_what_fits_is_accepted(metric: Metric, kind: MapKind, leaf_bytes: int) -> None:
    check(metric, kind, leaf_bytes=leaf_bytes)


@pytest.mark.parametrize(
    ("metric", "kind", "leaf_bytes", "saying"),
    [
        pytest.param(
            counter(KEY, CPU),
            MapKind.HASH,
            8,
            "table rows is of the kind HASH, for a label cpu without a size expected one of PERCPU_HASH, PERCPU_ARRAY, "
            "LRU_PERCPU_HASH",
            id="the CPU of a map without CPUs",
        ),
        pytest.param(
            counter(KEY, value_type=ValueType.U64, offset=4),
            MapKind.HASH,
            8,
            "values of table rows have 8 bytes, a u64 at byte 4 ends at 12",
            id="a value beyond the leaf",
        ),
        pytest.param(
            gauge(KEY),
            MapKind.ARRAY,
            3,
            "values of table rows have 3 bytes, expected 1, 2, 4 or 8",
            id="a leaf that is no integer",
        ),
        pytest.param(
            gauge(KEY),
            MapKind.RINGBUF,
            0,
            "table rows is of the kind RINGBUF, expected one of HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, "
            "LRU_PERCPU_HASH",
            id="a gauge of events",
        ),
        pytest.param(HISTOGRAM, MapKind.PERF_EVENT_ARRAY, 4, "kind PERF_EVENT_ARRAY, expected", id="buckets of events"),
        pytest.param(
            counter(KEY),
            MapKind.STACK_TRACE,
            8,
            "kind STACK_TRACE, expected one of HASH, ARRAY, PERF_EVENT_ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, "
            "LRU_PERCPU_HASH, RINGBUF",
            id="a counter of stacks",
        ),
        pytest.param(
            counter(), MapKind.PERF_EVENT_ARRAY, 4, "kind PERF_EVENT_ARRAY, expected labels", id="events without labels"
        ),
        pytest.param(counter(KEY, CPU), MapKind.RINGBUF, 0, "each with a size", id="the CPU of an event"),
        pytest.param(
            counter(KEY, multiplier=2.0), MapKind.RINGBUF, 0, "each event counts 1", id="events with a multiplier"
        ),
        pytest.param(counter(KEY, offset=4), MapKind.RINGBUF, 0, "expected no value_type", id="events with an offset"),
        pytest.param(
            counter(KEY, value_type=ValueType.U8), MapKind.RINGBUF, 0, "expected no value_type", id="events of a type"
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_kind(metric: Metric, kind: MapKind, leaf_bytes: int, saying: str) -> None:
    with pytest.raises(AttachError) as caught:
        check(metric, kind, leaf_bytes=leaf_bytes)

    assert caught.value.reason is Reason.MAP_TYPE
    assert caught.value.message.startswith(f"metric {metric.name}: ")
    assert saying in caught.value.message


@pytest.mark.parametrize("labels", [(KEY,), (KEY, CPU)], ids=["key", "key and CPU"])
def test_labels_make_up_the_key_without_the_cpu(labels: tuple[Label, ...]) -> None:
    with pytest.raises(AttachError, match=r"labels have 8 bytes \(kind 4\+4\), the key of table rows has 16") as caught:
        check(gauge(*labels), MapKind.PERCPU_HASH, key_bytes=16)

    assert caught.value.reason is Reason.KEY_SIZE


def test_a_table_that_the_code_does_not_have_is_named_with_one_that_it_has() -> None:
    with pytest.raises(AttachError, match=r"the code has no table row; did you mean rows\?") as caught:
        check(counter(table="row"), MapKind.HASH)

    assert caught.value.reason is Reason.UNKNOWN_TABLE


def warnings_of(kind: MapKind, max_entries: int, *more: Label) -> list[str]:
    histogram = HISTOGRAM.model_copy(update={"labels": (*more, *HISTOGRAM.labels)})
    program = Program(
        name="p", metrics=Metrics(histograms=(histogram,)), attachment=Selector(binary_name=("x",)), code=""
    )
    return list(room_warnings(program, [MapShape("rows", kind, 4, 8, max_entries, flags=0, built_fd=0)]))


@pytest.mark.parametrize("kind", [MapKind.ARRAY, MapKind.PERCPU_ARRAY])
def test_an_array_without_room_for_a_histogram_s_sum_or_its_last_bucket_is_warned_of(kind: MapKind) -> None:
    assert warnings_of(kind, 5) == []
    no_room = "warning: metric size: table rows has {} entries, no room for {}: it needs 5"
    assert warnings_of(kind, 4) == [no_room.format(4, "the sum's key 4, so that the sum stays 0")]
    assert warnings_of(kind, 3) == [no_room.format(3, "its last bucket's key 3 and the sum's, 4")]


def test_fixed_buckets_need_room_for_their_largest_key() -> None:
    fixed = HISTOGRAM.model_copy(update={"bucket_type": BucketType.FIXED, "bucket_keys": (1.0, 10.0)})
    program = Program(name="p", metrics=Metrics(histograms=(fixed,)), attachment=Selector(binary_name=("x",)), code="")
    for max_entries, number in ((12, 0), (11, 1)):
        shape = MapShape("rows", MapKind.ARRAY, 4, 8, max_entries, flags=0, built_fd=0)
        assert len(list(room_warnings(program, [shape]))) == number


def test_room_is_not_judged_where_a_bucket_s_number_is_no_index() -> None:
    assert warnings_of(MapKind.HASH, 1) == []
    assert warnings_of(MapKind.ARRAY, 1, Label(name="kind", size=2, decoders=(UINT,))) == []
