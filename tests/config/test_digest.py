"""A program's digest differs when anything about the program does."""

from collections.abc import Callable

import pytest
from pydantic import BaseModel

from ebpf_userspace_exporter.config.load import Loaded
from ebpf_userspace_exporter.config.model import Counter, Decoder, Gauge, Histogram, Label, Program
from ebpf_userspace_exporter.config.selector import Selector

CODE = "int trace_gc(void *ctx)"
LABEL = "name: gen\n"
COUNTER = "table: gc_counts\n"
DECODER = "- name: uint\n"
HISTOGRAM = (
    "      histograms:\n        - {name: h, table: t, bucket_type: linear, bucket_max: 3, "
    "labels: [{name: b, size: 8, decoders: [{name: uint}]}]}\n    usdt:\n"
)
GAUGE = "      gauges: [{name: g, table: t}]\n    usdt:\n"

SELECTORS = {
    "binary_name": "[gunicorn, x]",
    "exe": "/a",
    "cmdline": "x",
    "argv0": "x",
    "user": "x",
    "uid": "0",
    "cwd": "/a",
    "environ": "{a: b}",
    "cgroup": "x",
    "systemd_unit": "x",
    "container_id": "a",
    "library": "/a",
    "listens_on": "80",
    "parent": "{exe: /a}",
    "ancestor": "{exe: /a}",
    "min_age": "1s",
    "any": "{exe: /a}",
    "not": "{exe: /a}",
}
# What a key is put before, and the key with a value that is not its default.
CHANGES: dict[type[BaseModel], dict[str, tuple[str, str]]] = {
    Program: {
        "name": ("- name: gc_total\n    metrics", "- name: other\n    metrics"),
        "metrics": ("    usdt:\n", GAUGE),
        "usdt": ("gc__start:", "gc__done:"),
        "uprobes": ("    usdt:\n", "    uprobes: {a: b}\n    usdt:\n"),
        "uretprobes": ("    usdt:\n", "    uretprobes: {a: b}\n    usdt:\n"),
        "attachment": ("binary_name: gunicorn", "exe: /a"),
        "target_labels": ("    usdt:\n", "    target_labels: {}\n    usdt:\n"),
        "max_series": ("    usdt:\n", "    max_series: 1\n    usdt:\n"),
        "max_targets": ("    usdt:\n", "    max_targets: 1\n    usdt:\n"),
        "allow_go_uretprobes": ("    usdt:\n", "    allow_go_uretprobes: true\n    usdt:\n"),
        "cflags": ("    usdt:\n", "    cflags: [-O1]\n    usdt:\n"),
        "code": (CODE, f"/**/ {CODE}"),
    },
    Counter: {
        "name": ("- name: gc_total\n          help", "- name: other\n          help"),
        "help": ("help: Collections", "help: Others"),
        "table": (COUNTER, "table: others\n"),
        "labels": (LABEL, "name: other\n"),
        "value_type": (COUNTER, f"{COUNTER}          value_type: u32\n"),
        "value_multiplier": (COUNTER, f"{COUNTER}          value_multiplier: 2\n"),
        "value_offset": (COUNTER, f"{COUNTER}          value_offset: 8\n"),
    },
    Gauge: {
        "name": (GAUGE, GAUGE.replace("name: g", "name: other")),
        "help": (GAUGE, GAUGE.replace("}]", ", help: x}]")),
        "table": (GAUGE, GAUGE.replace("table: t", "table: u")),
        "labels": (GAUGE, GAUGE.replace("}]", ", labels: [{name: cpu}]}]")),
        "value_type": (GAUGE, GAUGE.replace("}]", ", value_type: s8}]")),
        "value_multiplier": (GAUGE, GAUGE.replace("}]", ", value_multiplier: -1}]")),
        "value_offset": (GAUGE, GAUGE.replace("}]", ", value_offset: 8}]")),
        "combine": (GAUGE, GAUGE.replace("}]", ", combine: min}]")),
    },
    Histogram: {
        "name": (HISTOGRAM, HISTOGRAM.replace("name: h", "name: other")),
        "help": (HISTOGRAM, HISTOGRAM.replace("table: t", "table: t, help: x")),
        "table": (HISTOGRAM, HISTOGRAM.replace("table: t", "table: u")),
        "labels": (HISTOGRAM, HISTOGRAM.replace("name: b", "name: other")),
        "bucket_type": (HISTOGRAM, HISTOGRAM.replace("linear", "exp2")),
        "bucket_multiplier": (HISTOGRAM, HISTOGRAM.replace("table: t", "table: t, bucket_multiplier: 2")),
        "bucket_min": (HISTOGRAM, HISTOGRAM.replace("table: t", "table: t, bucket_min: 1")),
        "bucket_max": (HISTOGRAM, HISTOGRAM.replace("bucket_max: 3", "bucket_max: 4")),
        "bucket_keys": (HISTOGRAM, HISTOGRAM.replace("table: t", "table: t, bucket_keys: [1]")),
    },
    Label: {
        "name": (LABEL, "name: other\n"),
        "size": ("size: 8", "size: 4"),
        "padding": (LABEL, f"{LABEL}              padding: 4\n"),
        "decoders": (DECODER, f"{DECODER}                - {{name: regexp, regexps: [a]}}\n"),
    },
    Decoder: {
        "name": (DECODER, "- name: string\n"),
        "static_map": (DECODER, "- {name: static_map, static_map: {a: b}}\n"),
        "allow_unknown": (DECODER, "- {name: static_map, static_map: {a: b}, allow_unknown: true}\n"),
        "regexps": (DECODER, "- {name: regexp, regexps: [a]}\n"),
        "stack_table": (DECODER, "- {name: ustack, stack_table: t}\n"),
    },
    Selector: {
        key: (
            "binary_name: gunicorn",
            f"{{binary_name: gunicorn, {key}: {value}}}" if key != "binary_name" else f"{key}: {value}",
        )
        for key, value in SELECTORS.items()
    },
}


def test_every_key_of_a_program_is_changed_here() -> None:
    for model, changes in CHANGES.items():
        assert changes.keys() == {field.alias or name for name, field in model.model_fields.items()}


@pytest.mark.parametrize("model", CHANGES, ids=lambda model: model.__name__)
def test_a_program_s_digest_changes_with_each_key(
    load: Callable[[str], Loaded], counter_yaml: str, model: type[BaseModel]
) -> None:
    bases: dict[type[BaseModel], str] = {Gauge: GAUGE, Histogram: HISTOGRAM}
    text = counter_yaml.replace("    usdt:\n", bases.get(model, "    usdt:\n"))
    digests = {load(text).config.programs[0].digest()}
    for old, new in CHANGES[model].values():
        assert text.count(old) == 1
        digests.add(load(text.replace(old, new)).config.programs[0].digest())

    assert len(digests) == 1 + len(CHANGES[model])


def test_a_program_s_digest_is_the_same_for_the_same_program(load: Callable[[str], Loaded], counter_yaml: str) -> None:
    [program] = load(counter_yaml).config.programs
    [written_otherwise] = load(
        counter_yaml.replace("size: 8", "size: 0x8").replace(": gunicorn", ": [gunicorn]")
    ).config.programs

    assert len(program.digest()) == 16
    assert program.digest() == written_otherwise.digest()
