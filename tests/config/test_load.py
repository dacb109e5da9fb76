"""Good configs, and what of the file's text reaches the models."""

import os
from collections.abc import Callable

import pytest

from ebpf_userspace_exporter.config.load import Loaded
from ebpf_userspace_exporter.config.model import (
    BucketType,
    Combine,
    Config,
    Counter,
    Decoder,
    Histogram,
    Label,
    Metrics,
    Program,
    ValueType,
)
from ebpf_userspace_exporter.config.selector import Selector, comm_of

Load = Callable[[str], Loaded]


def decoders_of(loaded: Loaded) -> tuple[Decoder, ...]:
    return loaded.config.programs[0].metrics.counters[0].labels[0].decoders


def test_a_counter_of_a_usdt_probe_loads_as_written(load: Load, counter_yaml: str) -> None:
    label = Label(name="gen", size=8, decoders=(Decoder(name="uint"),))
    counter = Counter(name="gc_total", help="Collections", table="gc_counts", labels=(label,))

    assert load(counter_yaml) == Loaded(
        Config(
            programs=(
                Program(
                    name="gc_total",
                    metrics=Metrics(counters=(counter,)),
                    usdt={"gc__start": "trace_gc"},
                    attachment=Selector(binary_name=("gunicorn",)),
                    code="int trace_gc(void *ctx) { return 0; }\n",
                ),
            )
        ),
        warnings=(),
    )


def test_a_histogram_of_a_uprobe_loads_as_written(load: Load, histogram_yaml: str) -> None:
    loaded = load(histogram_yaml)

    assert loaded.warnings == ()
    assert loaded.config.programs[0].uprobes == {"malloc": "enter"}
    assert loaded.config.programs[0].metrics.histograms == (
        Histogram(
            name="malloc_ns",
            help="Latency",
            table="malloc_ns",
            labels=(Label(name="bucket", size=8, decoders=(Decoder(name="uint"),)),),
            bucket_type=BucketType.EXP2,
            bucket_max=31,
        ),
    )


def test_attachment_may_be_spelled_attachments(load: Load, counter_yaml: str) -> None:
    assert load(counter_yaml.replace("attachment:", "attachments:")) == load(counter_yaml)


def test_keys_and_texts_keep_what_stands_in_the_file(load: Load, counter_yaml: str) -> None:
    static_map = "{0x1: 1:20, 010: on, 1:20: 0x10, on: 1_0, ~: ~, 1.50: 2021-01-01, 'null': ''}"
    decoder = f"                - {{name: static_map, static_map: {static_map}}}\n"
    text = counter_yaml.replace("    usdt:", decoder + "    usdt:")
    text += "    cflags: [0x1, -DN=010, yes]\n    uprobes: {010: no}\n"

    loaded = load(text)

    assert decoders_of(loaded)[1].static_map == {
        "0x1": "1:20",
        "010": "on",
        "1:20": "0x10",
        "on": "1_0",
        "~": "",
        "1.50": "2021-01-01",
        "null": "",
    }
    assert loaded.config.programs[0].cflags == ("0x1", "-DN=010", "yes")
    assert loaded.config.programs[0].uprobes == {"010": "no"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8", 8),
        ("'8'", 8),
        ("+8", 8),
        ("0x8", 8),
        ("0X10", 16),
        ("010", 8),
        ("0o10", 8),
        ("0b1000", 8),
        ("1_6", 16),
        ("8.0", 8),
        ("1e1", 10),
    ],
)
def test_whole_numbers_are_read_as_in_yaml_1_1(load: Load, counter_yaml: str, text: str, number: int) -> None:
    padded = counter_yaml.replace("size: 8", f"size: 8\n              padding: {text}")

    assert load(padded).config.programs[0].metrics.counters[0].labels[0].padding == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.000000001", 1e-9), ("1e-9", 1e-9), ("1E-09", 1e-9), (".5", 0.5), ("2", 2.0), ("0x10", 16.0), ("0", 1.0)],
)
def test_a_multiplier_is_a_number_and_0_is_none(load: Load, histogram_yaml: str, text: str, number: float) -> None:
    loaded = load(histogram_yaml.replace("bucket_max: 31", f"bucket_max: 31\n          bucket_multiplier: {text}"))

    assert loaded.config.programs[0].metrics.histograms[0].bucket_multiplier == number


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("yes", True), ("On", True), ("n", False), ("FALSE", False)]
)
def test_truth_values_are_read_as_in_yaml_1_1(load: Load, counter_yaml: str, text: str, value: bool) -> None:
    decoder = f"                - {{name: static_map, static_map: {{1: a}}, allow_unknown: {text}}}\n"

    loaded = load(counter_yaml.replace("    usdt:", decoder + "    usdt:"))

    assert decoders_of(loaded)[1].allow_unknown is value


def test_keys_without_a_value_are_as_if_left_out(load: Load, counter_yaml: str) -> None:
    loaded = load(counter_yaml.replace("help: Collections", "help:").replace("    usdt:", "    cflags:\n    usdt:"))

    assert loaded.config.programs[0].metrics.counters[0].help == ""
    assert loaded.config.programs[0].cflags == ()


def test_merge_keys_and_aliases_fill_in_what_a_program_does_not_say(load: Load) -> None:
    loaded = load(
        "programs:\n"
        "  - &first\n"
        "    name: first\n"
        "    usdt: &probes {a: f}\n"
        "    attachment: {binary_name: x}\n"
        "    code: c\n"
        "  - <<: [*first, {cflags: [-O1], code: d}]\n"
        "    name: second\n"
        "  - {<<: *first, name: third, usdt: {<<: *probes, b: g}}\n"
    )

    second, third = loaded.config.programs[1:]
    assert (second.name, second.usdt, second.code, second.cflags) == ("second", {"a": "f"}, "c", ("-O1",))
    assert third.usdt == {"a": "f", "b": "g"}


def test_a_static_map_or_regexp_may_start_a_chain(load: Load, counter_yaml: str) -> None:
    for decoder in ("{name: static_map, static_map: {a: b}}", "{name: regexp, regexps: ['^(a+)$']}", "{name: string}"):
        text = counter_yaml.replace("size: 8", "size: 3").replace("- name: uint", f"- {decoder}")

        assert load(text).warnings == ()


def test_the_bucket_of_a_histogram_may_be_named_le(load: Load, histogram_yaml: str) -> None:
    assert load(histogram_yaml.replace("name: bucket", "name: le")).warnings == ()


def test_kernel_probes_are_ignored_with_one_warning(load: Load, counter_yaml: str) -> None:
    second = counter_yaml.removeprefix("programs:\n").replace("name: gc_total\n    m", "name: second\n    m")
    text = counter_yaml + "    kprobes: {a: b}\n    perf_events: [{type: 1}]\n" + second + "    kprobes:\n"

    assert load(text).warnings == (
        "programs.yaml:19: programs[0].kprobes: kprobes, perf_events ignored: only probes in userspace are attached",
    )


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        pytest.param(
            "binary_name: redis-server",
            "binary_name: a-name-of-20-letters",
            "18: programs[0].attachment.binary_name: "
            'the kernel keeps 15 bytes of a process\'s name: compared as "a-name-of-20-le"',
            id="binary_name over 15 bytes",
        ),
        pytest.param(
            "binary_name: redis-server",
            "binary_name: /bin/redis",
            "18: programs[0].attachment.binary_name: "
            '"/bin/redis" has a folder in it; the kernel\'s name of a process has none',
            id="binary_name with a folder",
        ),
        pytest.param(
            "bucket_min: 0",
            "bucket_min: -1",
            "10: programs[0].metrics.histograms[0].bucket_max: some buckets stay empty: a key is a whole number from 0",
            id="negative bucket",
        ),
        pytest.param(
            "bucket_min: 0",
            "bucket_min: 0\n          bucket_keys: [1]",
            "10: programs[0].metrics.histograms[0].bucket_keys: is not used by the bucket_type exp2",
            id="unused bucket_keys",
        ),
        pytest.param(
            "      histograms:",
            "      gauges: [{name: a, table: t, value_offset: 8}]\n      histograms:",
            "4: programs[0].metrics.gauges[0].value_offset: "
            "without a value_type up to 8 bytes are read there, whatever they are",
            id="value_offset without a value_type",
        ),
    ],
)
def test_what_works_otherwise_than_it_looks_is_a_warning(
    load: Load, histogram_yaml: str, old: str, new: str, warning: str
) -> None:
    assert load(histogram_yaml.replace(old, new)).warnings == (f"programs.yaml:{warning}",)


def test_a_comm_is_the_first_15_bytes_of_a_binary_name() -> None:
    assert comm_of("gunicorn") == "gunicorn"
    assert comm_of("a-name-of-20-letters") == "a-name-of-20-le"
    assert os.fsencode(comm_of("fourteen-bytesé")) == b"fourteen-bytes\xc3"


def test_where_in_a_leaf_a_value_is_loads_as_written(load: Load, counter_yaml: str) -> None:
    value = "value_type: s32\n          value_multiplier: 1e-9\n          value_offset: 0x10\n          labels:"

    counter = load(counter_yaml.replace("labels:", value)).config.programs[0].metrics.counters[0]

    assert (counter.value_type, counter.value_multiplier, counter.value_offset) == (ValueType.S32, 1e-9, 16)
    assert (ValueType.S32.size, ValueType.S32.is_signed, ValueType.U64.size, ValueType.U64.is_signed) == (
        4,
        True,
        8,
        False,
    )


def test_a_gauge_may_be_multiplied_by_less_than_0(load: Load, counter_yaml: str) -> None:
    text = counter_yaml.replace("counters:", "gauges:").replace(
        "labels:", "combine: max\n          value_multiplier: -1\n          labels:"
    )

    metrics = load(text).config.programs[0].metrics

    assert (metrics.gauges[0].combine, metrics.gauges[0].value_multiplier) == (Combine.MAX, -1.0)
    assert metrics.all == metrics.gauges


def test_the_last_label_may_be_the_cpu_without_a_size(load: Load, counter_yaml: str) -> None:
    text = counter_yaml.replace("    usdt:", "            - name: cpu\n    usdt:")

    labels = load(text).config.programs[0].metrics.counters[0].labels

    assert [label.is_cpu for label in labels] == [False, True]


def test_a_label_cpu_with_a_size_is_of_the_key(load: Load, counter_yaml: str) -> None:
    [label] = load(counter_yaml.replace("name: gen", "name: cpu")).config.programs[0].metrics.counters[0].labels

    assert not label.is_cpu
