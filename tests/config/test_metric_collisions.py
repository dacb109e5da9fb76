"""Metrics of two programs that cannot be exposed together."""

from collections.abc import Callable

import pytest

from ebpf_userspace_exporter.config.load import Loaded


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        pytest.param(
            "{counters: [{name: gc, help: x, table: t}]}",
            [
                (
                    ':20: programs[1].metrics.counters[0].name: "gc" collides with the counter "gc_total" at '
                    "programs[0].metrics.counters[0]: both use userspace_exporter_gc"
                ),
            ],
            id="counters of one family",
        ),
        pytest.param(
            (
                "{counters: [{name: a_count, help: x, table: t}], "
                "histograms: [{name: a, table: t, bucket_type: linear, bucket_max: 3, "
                "labels: [{name: b, size: 8, decoders: [{name: uint}]}]}]}"
            ),
            [
                (
                    ':20: programs[1].metrics.histograms[0].name: "a" collides with the counter "a_count" at '
                    "programs[1].metrics.counters[0]: both use userspace_exporter_a_count"
                ),
            ],
            id="counter beside a histogram's count",
        ),
        pytest.param(
            "{counters: [{name: a, table: t}, {name: a, table: u}]}",
            [
                (
                    ':20: programs[1].metrics.counters[1].name: a second metric named "a" in one program, after '
                    "programs[1].metrics.counters[0]"
                ),
            ],
            id="one name twice in a program",
        ),
        pytest.param(
            (
                "{histograms: [{name: gc_total, table: t, bucket_type: linear, bucket_max: 3, "
                "labels: [{name: b, size: 8, decoders: [{name: uint}]}]}]}"
            ),
            [
                (
                    ':20: programs[1].metrics.histograms[0].name: "gc_total" is a histogram here and a counter at '
                    "programs[0].metrics.counters[0]"
                ),
            ],
            id="one name of two types",
        ),
        pytest.param(
            "{counters: [{name: gc_total, help: Other, table: t}]}",
            [
                (
                    ':20: programs[1].metrics.counters[0].help: expected the help that "gc_total" has at '
                    'programs[0].metrics.counters[0], "Collections", got "Other"'
                ),
                (
                    ':20: programs[1].metrics.counters[0].labels: expected the labels that "gc_total" has at '
                    'programs[0].metrics.counters[0], ("gen"), got ()'
                ),
            ],
            id="one name with other help and labels",
        ),
        pytest.param(
            "{gauges: [{name: gc_total, help: Collections, table: t}]}",
            [
                (
                    ':20: programs[1].metrics.gauges[0].name: "gc_total" is a gauge here and a counter at '
                    "programs[0].metrics.counters[0]"
                ),
            ],
            id="gauge with the name of a counter",
        ),
        pytest.param(
            "{gauges: [{name: gc, table: t}]}",
            [
                (
                    ':20: programs[1].metrics.gauges[0].name: "gc" collides with the counter "gc_total" at '
                    "programs[0].metrics.counters[0]: both use userspace_exporter_gc"
                ),
            ],
            id="gauge with the name of a counter's family",
        ),
        pytest.param(
            "{gauges: [{name: a, table: t}], counters: [{name: a, table: u}]}",
            [
                (
                    ':20: programs[1].metrics.gauges[0].name: a second metric named "a" in one program, after '
                    "programs[1].metrics.counters[0]"
                ),
            ],
            id="counter and gauge of one name in a program",
        ),
    ],
)
def test_metrics_that_cannot_be_exposed_together_are_refused(
    problems_of: Callable[[str], list[str]],
    with_second_program: Callable[[str], str],
    metrics: str,
    expected: list[str],
) -> None:
    assert problems_of(with_second_program(metrics)) == expected


def test_one_histogram_with_other_buckets_in_another_program_is_refused(
    problems_of: Callable[[str], list[str]], histogram_yaml: str
) -> None:
    second = histogram_yaml.removeprefix("programs:\n").replace("name: malloc\n", "name: second\n").replace("31", "30")

    [problem] = problems_of(histogram_yaml + second)
    assert problem == (
        ":26: programs[1].metrics.histograms[0].bucket_type: "
        'expected the buckets that "malloc_ns" has at programs[0].metrics.histograms[0]'
    )


def test_one_metric_may_be_in_two_programs(load: Callable[[str], Loaded], histogram_yaml: str) -> None:
    second = histogram_yaml.removeprefix("programs:\n").replace("name: malloc\n", "name: second\n")

    assert len(load(histogram_yaml + second).config.programs) == 2


@pytest.mark.parametrize("name", ["gc_count", "gc_sum", "gc_created"])
def test_a_name_that_only_looks_like_another_metrics_is_free(
    load: Callable[[str], Loaded], with_second_program: Callable[[str], str], name: str
) -> None:
    metrics = "{counters: [{name: NAME, table: t}]}".replace("NAME", name)

    assert load(with_second_program(metrics)).warnings == ()


def gauge_in_two_programs(first: str, second: str) -> str:
    """Return a config where the keys of the gauge, and those of the program, differ as given."""
    programs = ""
    for name, keys in (("first", first), ("second", second)):
        in_gauge, _, of_program = keys.partition("|")
        programs += f"- name: {name}\n  metrics: {{gauges: [{{name: heap, table: t{in_gauge}}}]}}\n  usdt: {{a: b}}\n"
        programs += f"  attachment: {{cmdline: '(?P<role>x)'}}\n{of_program}  code: x\n"
    return f"programs:\n{programs}"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(
            ", combine: max",
            "",
            [
                (
                    ':8: programs[1].metrics.gauges[0].combine: expected the combine that "heap" has at '
                    "programs[0].metrics.gauges[0], max, got sum"
                ),
            ],
            id="combine",
        ),
        pytest.param(
            "",
            "|  target_labels: {}\n",
            [
                (
                    ':11: programs[1].target_labels: expected the target labels that "heap" has at '
                    'programs[0].metrics.gauges[0], ("role", "pid"), got ("role")'
                ),
            ],
            id="target labels",
        ),
        pytest.param(
            "|  target_labels: {'{': x}\n",
            "|  target_labels: [x]\n",
            [
                (
                    ':6: programs[0].target_labels["{"]: expected a label\'s name of letters, digits and _ that starts '
                    'with no digit, got "{"'
                ),
                ":12: programs[1].target_labels: expected a mapping, got a list",
            ],
            id="target labels that are broken",
        ),
    ],
)
def test_a_gauge_that_two_programs_have_differently_is_refused(
    problems_of: Callable[[str], list[str]], first: str, second: str, expected: list[str]
) -> None:
    assert problems_of(gauge_in_two_programs(first, second)) == expected


def test_values_of_one_metric_may_be_read_otherwise_in_another_program(load: Callable[[str], Loaded]) -> None:
    text = gauge_in_two_programs(", value_type: s32, value_multiplier: -1", ", value_type: u64, value_offset: 8")

    assert load(text).warnings == ()
