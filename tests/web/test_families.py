import itertools

import pytest

from ebpf_userspace_exporter.web.exposition import Family
from ebpf_userspace_exporter.web.families import Families
from ebpf_userspace_exporter.web.file_cache import MetricFile, UnreadableFile
from ebpf_userspace_exporter.web.layouts import Combine
from ebpf_userspace_exporter.web.metric_keys import Kind
from tests.web.conftest import Values, histogram_values, metric_file

Labels = tuple[tuple[str, str], ...]


def counter(*values: tuple[str, Labels, float], help_text: str = "Help.") -> MetricFile:
    by_key = {(name.removesuffix("_total"), name, labels): value for name, labels, value in values}
    return metric_file("counter_x_1.db", Kind.COUNTER, by_key, help_text=help_text)


def gauge(name: str, value: float, combine: Combine = Combine.SUM) -> MetricFile:
    return metric_file("gauge_x.own", Kind.GAUGE, {(name, name, ()): value}, combine)


def histogram(name: str, counts: dict[str, float], total: float | None) -> MetricFile:
    values = dict(histogram_values(name, (("pid", "1"),), counts, total or 0.0))
    if total is None:
        del values[name, f"{name}_sum", (("pid", "1"),)]
    return metric_file("histogram_x_1.db", Kind.HISTOGRAM, values)


def merged(*files: MetricFile) -> list[Family]:
    families, left_out = Families().merged(files)
    assert left_out == []
    return families


def lines(*files: MetricFile) -> list[str]:
    return [line for family in merged(*files) for line in family.lines.decode().splitlines()]


def test_equal_labels_are_summed_whatever_their_order() -> None:
    one = counter(("gc_total", (("zone", "b"), ("pid", "1")), 2.0))
    other = counter(("gc_total", (("pid", "1"), ("zone", "b")), 3.0))

    assert lines(one, other) == ['gc_total{zone="b",pid="1"} 5.0']


def test_a_sum_does_not_depend_on_the_order_of_the_files() -> None:
    files = [counter(("x_total", (), value)) for value in (0.1, 0.2, 0.3, 1e16, 0.7)]

    assert len({line for order in itertools.permutations(files) for line in lines(*order)}) == 1


def test_a_sum_beyond_the_largest_number_is_infinite() -> None:
    assert lines(*(counter(("x_total", (), 1.7e308)) for _ in range(2))) == ["x_total +Inf"]


def test_a_sum_of_both_infinities_is_not_a_number() -> None:
    assert lines(gauge("x", float("inf")), gauge("x", float("-inf"))) == ["x NaN"]
    assert lines(gauge("x", float("-inf"))) == ["x -Inf"]


def test_order_does_not_depend_on_the_files_order() -> None:
    files = [counter((f"{name}_total", (("pid", pid),), 1.0)) for name in "ba" for pid in "21"]

    assert (
        lines(*files)
        == lines(*reversed(files))
        == [
            'a_total{pid="1"} 1.0',
            'a_total{pid="2"} 1.0',
            'b_total{pid="1"} 1.0',
            'b_total{pid="2"} 1.0',
        ]
    )


def test_buckets_are_cumulative_sorted_by_number_and_summed_over_files() -> None:
    files = (
        histogram("size", {"10.0": 1.0, "2.0": 4.0, "+Inf": 1.0}, 30.0),
        histogram("size", {"2": 1.0, "inf": 0.0}, 1.5),
    )

    assert lines(*files) == [
        'size_bucket{pid="1",le="2.0"} 5.0',
        'size_bucket{pid="1",le="10.0"} 6.0',
        'size_bucket{pid="1",le="+Inf"} 7.0',
        'size_sum{pid="1"} 31.5',
        'size_count{pid="1"} 7.0',
    ]


@pytest.mark.parametrize(
    "partial",
    [
        pytest.param(histogram("size", {"2.0": 4.0}, 8.0), id="no +Inf yet"),
        pytest.param(histogram("size", {"2.0": 4.0, "+Inf": 0.0}, None), id="no sum yet"),
    ],
)
def test_histogram_that_is_being_added_is_not_shown_yet(partial: MetricFile) -> None:
    assert merged(partial) == [Family("size", Kind.HISTOGRAM, "Help.", b"")]


def test_first_help_is_shown_for_all_series() -> None:
    new = counter(("gc_total", (("pid", "1"),), 1.0), help_text="New.")
    old = counter(("gc_total", (("pid", "2"),), 1.0), help_text="Old.")

    (family,) = merged(new, old)

    assert family.help == "New."
    assert family.lines.count(b"\n") == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(gauge("x", 1.0), counter(("x", (), 1.0)), id="another kind"),
        pytest.param(histogram("x", {"+Inf": 1.0}, 1.0), counter(("x_count", (), 1.0)), id="a histogram's count"),
        pytest.param(counter(("x_sum", (), 1.0)), histogram("x", {"+Inf": 1.0}, 1.0), id="a counter's name"),
        pytest.param(gauge("x", 1.0), histogram("x", {"+Inf": 1.0}, 1.0), id="a histogram's bare name"),
        pytest.param(gauge("x", 1.0, Combine.MAX), gauge("x", 2.0), id="summed where others take the largest"),
    ],
)
def test_contradicting_file_is_left_out_whole(first: MetricFile, second: MetricFile) -> None:
    kind = second.layout.kind
    name = second.layout.metrics[0].name
    sample = f"{name}_sum" if kind is Kind.HISTOGRAM else name
    values: Values = {("a", "a_sum" if kind is Kind.HISTOGRAM else "a", ()): 1.0, (name, sample, ()): 1.0}
    contradicting = metric_file("second.db", kind, values, second.layout.combine)
    families = Families()

    shown, left_out = families.merged([first, contradicting, gauge("a", 7.0)])

    assert [(family.name, family.lines) for family in shown if family.name == "a"] == [("a", b"a 7.0\n")]
    assert [family for family in shown if family.name != "a"] == merged(first)
    assert [file.name for file in left_out] == ["second.db"]
    assert "x" in left_out[0].reason
    # When what it contradicted has gone it is shown.
    assert families.merged([contradicting]) == (merged(contradicting), [])


def test_file_that_contradicts_itself_is_left_out() -> None:
    values = {**histogram_values("x", (), {"+Inf": 1.0}, 1.0), **histogram_values("x_sum", (), {"+Inf": 1.0}, 1.0)}

    families, left_out = Families().merged([metric_file("a.db", Kind.HISTOGRAM, values)])

    assert families == []
    assert left_out == [UnreadableFile("a.db", "x_sum belongs to another metric")]


def test_reserved_name_is_refused() -> None:
    file = counter(("scrape_seconds_sum", (), 1.0))

    assert Families(reserved={"scrape_seconds_sum"}).merged([file]) == (
        [],
        [UnreadableFile(file.name, "scrape_seconds_sum belongs to another metric")],
    )


@pytest.mark.parametrize(("combine", "value"), [(Combine.SUM, "3.0"), (Combine.MAX, "5.0"), (Combine.MIN, "-3.0")])
def test_gauges_of_equal_labels_combine_as_their_files_say(combine: Combine, value: str) -> None:
    assert lines(*(gauge("x", number, combine) for number in (1.0, 5.0, -3.0))) == [f"x {value}"]


@pytest.mark.parametrize(("combine", "value"), [(Combine.MAX, -1.0), (Combine.MIN, 1.0)])
def test_what_no_file_says_is_not_taken_for_zero(combine: Combine, value: float) -> None:
    assert lines(gauge("x", value, combine)) == [f"x {value}"]


def test_family_of_which_nothing_changed_is_not_rendered_again() -> None:
    families = Families()
    a, b = counter(("a_total", (), 1.0)), counter(("b_total", (), 1.0))
    before, _ = families.merged([a, b])

    after, _ = families.merged([a, counter(("b_total", (), 2.0))])

    assert after[0].lines is before[0].lines
    assert after[1].lines == b"b_total 2.0\n"
