import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.utils import floatToGoString

from ebpf_userspace_exporter.web.exposition import (
    Family,
    number_text,
    numbers_text,
    render_openmetrics,
    render_text,
    restrict,
)
from ebpf_userspace_exporter.web.families import Families
from ebpf_userspace_exporter.web.file_cache import FileCache, MetricFile
from ebpf_userspace_exporter.web.metric_keys import Kind
from tests.web.conftest import histogram_values, write_metric_file

HOSTILE = 'back\\slash "quoted" new\nline \\n {le="1"} ü\U0001f600 \r\x00#'

Parsed = set[tuple[str, frozenset[tuple[str, str]], float]]


def text_samples(text: str) -> Parsed:
    # The parser's metrics carry `_total` whether or not the text did; the lines' own names count here.
    return {
        (sample.name, frozenset(sample.labels.items()), sample.value)
        for metric in parse_text(text)
        for sample in metric.samples
    }


def openmetrics_samples(text: str) -> Parsed:
    return {
        (sample.name, frozenset(sample.labels.items()), sample.value)
        for metric in parse_openmetrics(text)  # type: ignore[no-untyped-call]  # the library's
        for sample in metric.samples
    }


def counter(name: str, value: float = 1.0, help_text: str = "Help.") -> Family:
    return Family(name, Kind.COUNTER, help_text, f'{name}{{pid="1"}} {value}\n'.encode())


def histogram(name: str) -> Family:
    lines = f'{name}_bucket{{le="+Inf"}} 2.0\n{name}_sum 3.0\n{name}_count 2.0\n'
    return Family(name, Kind.HISTOGRAM, "Help.", lines.encode())


def merged(state_directory: Path) -> list[Family]:
    outcomes = FileCache(state_directory).read()
    files = [outcome for outcome in outcomes if isinstance(outcome, MetricFile)]
    families, left_out = Families().merged(files)
    assert (len(files), left_out) == (len(outcomes), [])
    return families


def test_parsed_samples_equal_the_stock_collectors(state_directory: Path) -> None:
    for pid in ("7", "8"):
        labels = (("zone", HOSTILE), ("area", "a"), ("pid", pid))
        counts = {"0.5": 1.0, "1.0": 2.0, "16777216.0": 0.0, "3e+20": 4.0, "+Inf": 1e9}
        write_metric_file(
            state_directory / f"counter_x-1_{pid}.db",
            {("gc", "gc_total", labels): 3.0, ("big", "big_total", labels): 2.0**63, ("less", "less_total", ()): 0.1},
        )
        write_metric_file(state_directory / f"histogram_x-1_{pid}.db", histogram_values("size", labels, counts, 1e18))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(state_directory))  # type: ignore[no-untyped-call]  # the library's
    families = merged(state_directory)

    ours, stock = render_text(families).decode(), generate_latest(registry).decode()
    assert text_samples(ours) == text_samples(stock)
    assert len(text_samples(ours)) == 2 * 2 + 1 + 2 * 7
    stock_openmetrics = generate_openmetrics(registry).decode()  # type: ignore[no-untyped-call]  # the library's
    assert openmetrics_samples(render_openmetrics(families).decode()) == openmetrics_samples(stock_openmetrics)


def test_gauges_and_totals_of_targets_that_are_gone_leave_the_stock_collectors_sums_equal(
    state_directory: Path,
) -> None:
    labels = (("role", "worker"),)
    for middle in ("7", "8", "retired-3", "folded"):
        values = histogram_values("size", labels, {"1.0": 2.0, "+Inf": 1.0}, 5.0)
        write_metric_file(state_directory / f"counter_x-1_{middle}.db", {("gc", "gc_total", labels): 3.0})
        write_metric_file(state_directory / f"histogram_x-1_{middle}.db", values)
    for kind in ("gauge", "gauge-max", "gauge-min"):
        for pid, value in (("7", 4.0), ("8", -6.0)):
            name = kind.replace("-", "_")
            write_metric_file(state_directory / f"{kind}_x-1_{pid}.own", {(name, name, labels): value})
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(state_directory))  # type: ignore[no-untyped-call]  # the library's

    samples = text_samples(render_text(merged(state_directory)).decode())

    gauges = {sample for sample in samples if sample[0].startswith("gauge")}
    role = frozenset(labels)
    assert gauges == {("gauge", role, -2.0), ("gauge_max", role, 4.0), ("gauge_min", role, -6.0)}
    assert samples - gauges == text_samples(generate_latest(registry).decode())
    assert ("gc_total", role, 12.0) in samples


def test_text_is_written_as_the_format_says(state_directory: Path) -> None:
    values = {("gc", "gc_total", (("zone", 'a"b\\c\nd%s%%'), ("pid", "1"))): 1234567.0, ("gc", "gc_total", ()): 0.5}
    write_metric_file(state_directory / "counter_x_1.db", values, help_text='Say "hi"\nto \\n')

    assert render_text(merged(state_directory)).decode() == (
        '# HELP gc_total Say "hi"\\nto \\\\n\n'
        "# TYPE gc_total counter\n"
        "gc_total 0.5\n"
        'gc_total{zone="a\\"b\\\\c\\nd%s%%",pid="1"} 1.234567e+06\n'
    )


def test_openmetrics_is_written_as_the_format_says() -> None:
    families = [counter("gc_total", help_text='Say "hi"\n'), counter("plain"), histogram("size")]

    assert render_openmetrics(families).decode() == (
        '# HELP gc Say \\"hi\\"\\n\n# TYPE gc counter\ngc_total{pid="1"} 1.0\n'
        '# HELP plain Help.\n# TYPE plain unknown\nplain{pid="1"} 1.0\n'
        '# HELP size Help.\n# TYPE size histogram\nsize_bucket{le="+Inf"} 2.0\nsize_sum 3.0\nsize_count 2.0\n'
        "# EOF\n"
    )


def test_counter_without_total_keeps_its_name_in_both_formats() -> None:
    families = [counter("plain"), counter("gc_total")]

    text_names = {line.partition("{")[0] for line in render_text(families).decode().splitlines() if line[0] != "#"}
    openmetrics = {name for name, _, _ in openmetrics_samples(render_openmetrics(families).decode())}
    assert text_names == openmetrics == {"plain", "gc_total"}
    assert "# TYPE plain counter\n" in render_text(families).decode()


def test_names_that_openmetrics_would_merge_stay_apart() -> None:
    families = [
        counter("_total"),
        counter("gc"),
        counter("gc_total"),
        histogram("size"),
        counter("size_total"),
        counter("x_total"),
        counter("x_total_total"),
        Family("y_created", Kind.GAUGE, "Help.", b"y_created 1.0\n"),
        counter("y_total"),
    ]

    names = {name for name, _, _ in openmetrics_samples(render_openmetrics(families).decode())}

    lines = b"".join(family.lines for family in families).decode().splitlines()
    assert names == {line.partition("{")[0].partition(" ")[0] for line in lines}


def test_values_no_float_repr_would_spell_are_parsed_again() -> None:
    values = (math.inf, -math.inf, 0.0, 2.0**53, 1e-7, 5e-324, 1e22)
    families = [
        Family(f"g{n}", Kind.GAUGE, "", f"g{n} {number_text(value)}\n".encode()) for n, value in enumerate(values)
    ]

    for samples in (
        text_samples(render_text(families).decode()),
        openmetrics_samples(render_openmetrics(families).decode()),
    ):
        assert sorted(value for _, _, value in samples) == sorted(values)


def test_nothing_is_an_empty_text_and_an_ended_openmetrics() -> None:
    assert render_text([]) == b""
    assert render_openmetrics([]) == b"# EOF\n"


@given(st.one_of(st.floats(), st.integers(min_value=-(2**60), max_value=2**60).map(float)))
def test_numbers_are_written_as_the_library_writes_them(number: float) -> None:
    (text,) = numbers_text([number])

    assert f"{text}" == floatToGoString(number + 0.0)  # type: ignore[no-untyped-call]  # the library's
    assert number_text(number) == floatToGoString(number)  # type: ignore[no-untyped-call]  # the library's


def test_restricting_takes_family_names_whole_and_sample_names_alone() -> None:
    families = [counter("a_total"), counter("b_total"), Family("g", Kind.GAUGE, "", b"g 1.0\n"), histogram("h")]

    restricted = restrict(families, {"a_total", "h_sum", "none", "g"})

    assert restricted == [families[0], families[2], Family("h", Kind.HISTOGRAM, "Help.", b"h_sum 3.0\n")]
    assert restrict(families, {"h"}) == [histogram("h")]


def test_restricting_is_not_misled_by_labels() -> None:
    lines = b'h_bucket{a="\rh_sum 1",le="+Inf"} 1.0\nh_sum{a="\rh_sum 1"} 2.0\nh_count{a="\rh_sum 1"} 1.0\n'

    (family,) = restrict([Family("h", Kind.HISTOGRAM, "", lines)], {"h_sum"})

    assert family.lines == b'h_sum{a="\rh_sum 1"} 2.0\n'
