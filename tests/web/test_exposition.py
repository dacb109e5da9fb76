import math
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ebpf_userspace_exporter.web.exposition import render_openmetrics, render_text
from ebpf_userspace_exporter.web.families import Family, Merge, Sample
from ebpf_userspace_exporter.web.metric_files import Kind, MetricFile, read_metric_files
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
    return Family(name, Kind.COUNTER, help_text, (Sample(name, (("pid", "1"),), value),))


def histogram(name: str) -> Family:
    samples = (
        Sample(f"{name}_bucket", (("le", "+Inf"),), 2.0),
        Sample(f"{name}_sum", (), 3.0),
        Sample(f"{name}_count", (), 2.0),
    )
    return Family(name, Kind.HISTOGRAM, "Help.", samples)


def merged(state_directory: Path) -> list[Family]:
    merge = Merge()
    for file in read_metric_files(state_directory):
        assert isinstance(file, MetricFile)
        merge.add(file)
    return merge.families()


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


def test_text_is_written_as_the_format_says() -> None:
    family = Family(
        "gc_total",
        Kind.COUNTER,
        'Say "hi"\nto \\n',
        (Sample("gc_total", (("zone", 'a"b\\c\nd'), ("pid", "1")), 1234567.0), Sample("gc_total", (), 0.5)),
    )

    assert render_text([family]).decode() == (
        '# HELP gc_total Say "hi"\\nto \\\\n\n'
        "# TYPE gc_total counter\n"
        'gc_total{zone="a\\"b\\\\c\\nd",pid="1"} 1.234567e+06\n'
        "gc_total 0.5\n"
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
        Family("y_created", Kind.GAUGE, "Help.", (Sample("y_created", (), 1.0),)),
        counter("y_total"),
    ]

    names = {name for name, _, _ in openmetrics_samples(render_openmetrics(families).decode())}

    assert names == {sample.name for family in families for sample in family.samples}


def test_values_no_float_repr_would_spell_are_parsed_again() -> None:
    values = (math.inf, -math.inf, 0.0, 2.0**53, 1e-7, 5e-324, 1e22)
    families = [Family(f"g{n}", Kind.GAUGE, "", (Sample(f"g{n}", (), value),)) for n, value in enumerate(values)]

    for samples in (
        text_samples(render_text(families).decode()),
        openmetrics_samples(render_openmetrics(families).decode()),
    ):
        assert sorted(value for _, _, value in samples) == sorted(values)


def test_nothing_is_an_empty_text_and_an_ended_openmetrics() -> None:
    assert render_text([]) == b""
    assert render_openmetrics([]) == b"# EOF\n"
