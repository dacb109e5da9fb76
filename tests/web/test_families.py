import itertools
import math

import pytest

from ebpf_userspace_exporter.web.families import Family, Merge, Sample, restrict
from ebpf_userspace_exporter.web.metric_files import Combine, Entry, Kind, MetricFile, MetricFileError


def counter(*values: tuple[str, tuple[tuple[str, str], ...], float], help_text: str = "Help.") -> MetricFile:
    entries = (Entry(name.removesuffix("_total"), name, labels, help_text, value) for name, labels, value in values)
    return MetricFile("counter_x_1.db", Kind.COUNTER, tuple(entries))


def gauge(name: str, value: float, combine: Combine = Combine.SUM) -> MetricFile:
    return MetricFile("gauge_x.own", Kind.GAUGE, (Entry(name, name, (), "Help.", value),), combine)


def histogram(name: str, counts: dict[float, float], total: float | None) -> MetricFile:
    buckets = [Entry(name, f"{name}_bucket", (("pid", "1"),), "Help.", count, bound) for bound, count in counts.items()]
    sums = [] if total is None else [Entry(name, f"{name}_sum", (("pid", "1"),), "Help.", total)]
    return MetricFile("histogram_x_1.db", Kind.HISTOGRAM, (*buckets, *sums))


def merged(*files: MetricFile) -> list[Family]:
    merge = Merge()
    for file in files:
        merge.add(file)
    return merge.families()


def test_equal_labels_are_summed_whatever_their_order() -> None:
    one = counter(("gc_total", (("zone", "b"), ("pid", "1")), 2.0))
    other = counter(("gc_total", (("pid", "1"), ("zone", "b")), 3.0))

    (family,) = merged(one, other)

    assert family.samples == (Sample("gc_total", (("zone", "b"), ("pid", "1")), 5.0),)


def test_a_sum_does_not_depend_on_the_order_of_the_files() -> None:
    files = [counter(("x_total", (), value)) for value in (0.1, 0.2, 0.3, 1e16, 0.7)]

    sums = {family.samples[0].value for order in itertools.permutations(files) for family in merged(*order)}

    assert len(sums) == 1


def test_a_sum_beyond_the_largest_number_is_infinite() -> None:
    files = [counter(("x_total", (), 1.7e308)) for _ in range(2)]

    assert merged(*files)[0].samples[0].value == math.inf


def test_order_does_not_depend_on_the_files_order() -> None:
    files = [counter((f"{name}_total", (("pid", pid),), 1.0)) for name in "ba" for pid in "21"]

    families = merged(*files)

    assert families == merged(*reversed(files))
    assert [family.name for family in families] == ["a_total", "b_total"]
    assert [sample.labels for sample in families[0].samples] == [(("pid", "1"),), (("pid", "2"),)]


def test_buckets_are_cumulative_sorted_by_number_and_summed_over_files() -> None:
    (family,) = merged(
        histogram("size", {10.0: 1.0, 2.0: 4.0, math.inf: 1.0}, 30.0), histogram("size", {2.0: 1.0, math.inf: 0.0}, 1.5)
    )

    pid = ("pid", "1")
    assert family.samples == (
        Sample("size_bucket", (pid, ("le", "2.0")), 5.0),
        Sample("size_bucket", (pid, ("le", "10.0")), 6.0),
        Sample("size_bucket", (pid, ("le", "+Inf")), 7.0),
        Sample("size_sum", (pid,), 31.5),
        Sample("size_count", (pid,), 7.0),
    )


@pytest.mark.parametrize(
    "partial",
    [
        pytest.param(histogram("size", {2.0: 4.0}, 8.0), id="no +Inf yet"),
        pytest.param(histogram("size", {2.0: 4.0, math.inf: 0.0}, None), id="no sum yet"),
    ],
)
def test_histogram_that_is_being_added_is_not_shown_yet(partial: MetricFile) -> None:
    (family,) = merged(partial)

    assert family.samples == ()


def test_first_help_is_shown_for_all_series() -> None:
    new = counter(("gc_total", (("pid", "1"),), 1.0), help_text="New.")
    old = counter(("gc_total", (("pid", "2"),), 1.0), help_text="Old.")

    (family,) = merged(new, old)

    assert family.help == "New."
    assert len(family.samples) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(gauge("x", 1.0), counter(("x", (), 1.0)), id="another kind"),
        pytest.param(histogram("x", {math.inf: 1.0}, 1.0), counter(("x_count", (), 1.0)), id="a histogram's count"),
        pytest.param(counter(("x_sum", (), 1.0)), histogram("x", {math.inf: 1.0}, 1.0), id="a counter's name"),
        pytest.param(gauge("x", 1.0), histogram("x", {math.inf: 1.0}, 1.0), id="a histogram's bare name"),
        pytest.param(gauge("x", 1.0, Combine.MAX), gauge("x", 2.0), id="summed where others take the largest"),
    ],
)
def test_contradicting_file_is_left_out_whole(first: MetricFile, second: MetricFile) -> None:
    merge = Merge()
    merge.add(first)
    before = merge.families()
    fresh = Entry("fresh", "fresh", (), "Help.", 1.0)
    entries = (*counter(("a", (), 1.0)).entries, fresh, *second.entries)

    with pytest.raises(MetricFileError, match="x"):
        merge.add(MetricFile("second.db", second.kind, entries, second.combine))

    assert merge.families() == before
    merge.add(gauge("fresh", 1.0))


def test_reserved_name_is_refused() -> None:
    with pytest.raises(MetricFileError, match="scrape_seconds_sum"):
        Merge(reserved={"scrape_seconds_sum"}).add(counter(("scrape_seconds_sum", (), 1.0)))


@pytest.mark.parametrize(("combine", "value"), [(Combine.SUM, 3.0), (Combine.MAX, 5.0), (Combine.MIN, -3.0)])
def test_gauges_of_equal_labels_combine_as_their_files_say(combine: Combine, value: float) -> None:
    (family,) = merged(*(gauge("x", number, combine) for number in (1.0, 5.0, -3.0)))

    assert family.samples == (Sample("x", (), value),)


@pytest.mark.parametrize(("combine", "value"), [(Combine.MAX, -1.0), (Combine.MIN, 1.0)])
def test_what_no_file_says_is_not_taken_for_zero(combine: Combine, value: float) -> None:
    (family,) = merged(gauge("x", value, combine))

    assert family.samples == (Sample("x", (), value),)


def test_restricting_takes_family_names_whole_and_sample_names_alone() -> None:
    families = merged(
        counter(("a_total", (), 1.0), ("b_total", (), 1.0)), histogram("h", {math.inf: 1.0}, 1.0), gauge("g", 1.0)
    )

    restricted = restrict(families, {"a_total", "h_sum", "none", "g"})

    assert [sample.name for family in restricted for sample in family.samples] == ["a_total", "g", "h_sum"]
    assert restrict(families, {"h"}) == [family for family in families if family.name == "h"]
