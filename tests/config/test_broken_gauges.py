"""Gauges, values, the label cpu and events with one thing wrong, with the whole message of each."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            ("      counters:\n        - name"),
            ("      gauges: {name: x}\n      counters:\n        - name"),
            [
                ":4: programs[0].metrics.gauges: expected a list, got a mapping",
            ],
            id="gauges as a mapping",
        ),
        pytest.param(
            ("      counters:\n        - name"),
            ("      gauges: [x]\n      counters:\n        - name"),
            [
                ':4: programs[0].metrics.gauges[0]: expected a mapping, got "x"',
            ],
            id="gauge that is a text",
        ),
        pytest.param(
            ("      counters:\n        - name: gc_total\n          help: Collections\n          table: gc_counts\n"),
            ("      gauges:\n        - name: gc_total\n          help: Collections\n"),
            [
                ":5: programs[0].metrics.gauges[0].table: missing; expected the name of a BPF map in the code",
            ],
            id="gauge without a table",
        ),
        pytest.param(
            ("      counters:\n        - name: gc_total\n          help: Collections\n          table: gc_counts\n"),
            ("      gauges:\n        - help: Collections\n          table: gc_counts\n"),
            [
                ":5: programs[0].metrics.gauges[0].name: missing; expected the metric's name",
            ],
            id="gauge without a name",
        ),
        pytest.param(
            ("      counters:\n        - name: gc_total\n          help: Collections\n          table: gc_counts\n"),
            ("      gauges:\n        - name: gc-total\n          help: Collections\n          table: gc_counts\n"),
            [
                (
                    ":5: programs[0].metrics.gauges[0].name: expected a metric's name of letters, digits and _, got "
                    '"gc-total"'
                ),
            ],
            id="name with a dash",
        ),
        pytest.param(
            ("      counters:\n        - name: gc_total\n          help: Collections\n          table: gc_counts\n"),
            ("      gauges:\n        - name: gc_total\n          help: Collections\n          table: gc counts\n"),
            [
                ':7: programs[0].metrics.gauges[0].table: expected the name of a BPF map in the code, got "gc counts"',
            ],
            id="table with a space",
        ),
        pytest.param(
            ("      counters:\n        - name: gc_total\n          help: Collections\n          table: gc_counts\n"),
            ("      gauges:\n        - name: map_entries\n          help: Collections\n          table: gc_counts\n"),
            [
                (
                    ':5: programs[0].metrics.gauges[0].name: "map_entries" collides with the exporter\'s own '
                    "userspace_exporter_map_entries"
                ),
            ],
            id="name of an own gauge",
        ),
        pytest.param(
            ("      counters:\n        - name: gc_total\n          help: Collections\n          table: gc_counts\n"),
            ("      gauges:\n        - name: lost_events\n          help: Collections\n          table: gc_counts\n"),
            [
                (
                    ':5: programs[0].metrics.gauges[0].name: "lost_events" collides with the exporter\'s own '
                    "userspace_exporter_lost_events_total"
                ),
            ],
            id="name in the family of an own counter",
        ),
        pytest.param(
            ("      counters:\n        - name: gc_total\n          help: Collections\n          table: gc_counts\n"),
            (
                "      gauges:\n"
                "        - name: gc_total\n"
                "          help: Collections\n"
                "          table: gc_counts\n"
                "          combine: summ\n"
            ),
            [
                (
                    ':8: programs[0].metrics.gauges[0].combine: expected one of sum, max, min, got "summ"; did you '
                    'mean "sum"?'
                ),
            ],
            id="unknown way to combine",
        ),
        pytest.param(
            ("      counters:\n        - name: gc_total\n          help: Collections\n          table: gc_counts\n"),
            (
                "      gauges:\n"
                "        - name: gc_total\n"
                "          help: Collections\n"
                "          table: gc_counts\n"
                "          combine: [sum]\n"
            ),
            [
                ":8: programs[0].metrics.gauges[0].combine: expected one of sum, max, min, got a list",
            ],
            id="combine that is a list",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          combine: max\n"),
            [
                (
                    ":8: programs[0].metrics.counters[0].combine: unknown key; expected one of name, help, table, "
                    "labels, value_type, value_multiplier, value_offset"
                ),
            ],
            id="combine of a counter",
        ),
        pytest.param(
            ("      counters:\n        - name: gc_total\n          help: Collections\n          table: gc_counts\n"),
            (
                "      gauges:\n"
                "        - name: gc_total\n"
                "          help: Collections\n"
                "          table: gc_counts\n"
                "          value_multiplier: 0\n"
            ),
            [
                ":8: programs[0].metrics.gauges[0].value_multiplier: expected a number other than 0, got 0",
            ],
            id="gauge that is multiplied by 0",
        ),
        pytest.param(
            ("      counters:\n        - name: gc_total\n          help: Collections\n          table: gc_counts\n"),
            (
                "      gauges:\n"
                "        - name: gc_total\n"
                "          help: Collections\n"
                "          table: gc_counts\n"
                "          bucket_multiplier: 2\n"
            ),
            [
                ':8: programs[0].metrics.gauges[0].bucket_multiplier: unknown key; did you mean "value_multiplier"?',
            ],
            id="bucket_multiplier of a gauge",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_type: u46\n"),
            [
                (
                    ":8: programs[0].metrics.counters[0].value_type: expected one of u8, u16, u32, u64, s8, s16, "
                    's32, s64, got "u46"; did you mean "u64"?'
                ),
            ],
            id="unknown value_type",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_type: double\n"),
            [
                (
                    ":8: programs[0].metrics.counters[0].value_type: expected one of u8, u16, u32, u64, s8, s16, "
                    's32, s64, got "double"'
                ),
            ],
            id="value_type of C",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_type: [u64]\n"),
            [
                (
                    ":8: programs[0].metrics.counters[0].value_type: expected one of u8, u16, u32, u64, s8, s16, "
                    "s32, s64, got a list"
                ),
            ],
            id="value_type that is a list",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_offset: -8\n          value_type: u64\n"),
            [
                ':8: programs[0].metrics.counters[0].value_offset: expected at least 0, got "-8"',
            ],
            id="negative offset",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_offset: 0x100000\n          value_type: u64\n"),
            [
                ':8: programs[0].metrics.counters[0].value_offset: expected less than 1048576, got "0x100000"',
            ],
            id="offset beyond any leaf",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_offset: second\n"),
            [
                ':8: programs[0].metrics.counters[0].value_offset: expected a whole number, got "second"',
            ],
            id="offset of no number",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_multiplier: 0\n"),
            [
                (
                    ":8: programs[0].metrics.counters[0].value_multiplier: expected a number above 0, as a counter "
                    "never falls, got 0"
                ),
            ],
            id="counter that is multiplied by 0",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_multiplier: -1e-9\n"),
            [
                (
                    ":8: programs[0].metrics.counters[0].value_multiplier: expected a number above 0, as a counter "
                    "never falls, got -1e-09"
                ),
            ],
            id="counter that would fall",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_multiplier: 1ms\n"),
            [
                ':8: programs[0].metrics.counters[0].value_multiplier: expected a number, got "1ms"',
            ],
            id="multiplier of no number",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_multiplier: 1e999\n"),
            [
                ':8: programs[0].metrics.counters[0].value_multiplier: expected a number, got "1e999"',
            ],
            id="multiplier beyond a float",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          value_multiplier: [1]\n"),
            [
                ":8: programs[0].metrics.counters[0].value_multiplier: expected a number, got a list",
            ],
            id="multiplier that is a list",
        ),
        pytest.param(
            ("            - name: gen\n              size: 8\n              decoders:\n                - name: uint\n"),
            (
                "            - name: cpu\n"
                "            - name: gen\n"
                "              size: 8\n"
                "              decoders:\n"
                "                - name: uint\n"
            ),
            [
                (
                    ':9: programs[0].metrics.counters[0].labels[0]: "cpu" without a size splits a per-CPU map; '
                    "expected it as the last label, or a size"
                ),
            ],
            id="cpu that is not the last",
        ),
        pytest.param(
            ("            - name: gen\n              size: 8\n              decoders:\n                - name: uint\n"),
            (
                "            - name: gen\n"
                "              size: 8\n"
                "              decoders:\n"
                "                - name: uint\n"
                "            - name: cpu\n"
                "              size: 4\n"
            ),
            [
                ":13: programs[0].metrics.counters[0].labels[1].decoders: missing; expected a list of decoders",
            ],
            id="cpu with a size alone",
        ),
        pytest.param(
            ("            - name: gen\n              size: 8\n              decoders:\n                - name: uint\n"),
            (
                "            - name: gen\n"
                "              size: 8\n"
                "              decoders:\n"
                "                - name: uint\n"
                "            - {name: cpu, decoders: [{name: uint}]}\n"
            ),
            [
                ":13: programs[0].metrics.counters[0].labels[1].size: missing; expected how many bytes of the key",
            ],
            id="cpu with decoders alone",
        ),
        pytest.param(
            ("            - name: gen\n              size: 8\n              decoders:\n                - name: uint\n"),
            (
                "            - name: gen\n"
                "              size: 8\n"
                "              decoders:\n"
                "                - name: uint\n"
                "            - {name: cpu, padding: 4}\n"
            ),
            [
                (
                    ':13: programs[0].metrics.counters[0].labels[1].padding: "cpu" without a size is no part of the '
                    "key; expected no padding"
                ),
            ],
            id="cpu with a padding",
        ),
        pytest.param(
            ("            - name: gen\n              size: 8\n              decoders:\n                - name: uint\n"),
            (
                "            - name: gen\n"
                "              size: 8\n"
                "              decoders:\n"
                "                - name: uint\n"
                "            - {name: cpu, sise: 4, decoders: [{name: uint}]}\n"
            ),
            [
                ':13: programs[0].metrics.counters[0].labels[1].sise: unknown key; did you mean "size"?',
            ],
            id="cpu with a misspelt size",
        ),
        pytest.param(
            ("            - name: gen\n              size: 8\n              decoders:\n                - name: uint\n"),
            (
                "            - name: gen\n"
                "              size: 8\n"
                "              decoders:\n"
                "                - name: uint\n"
                "            - {name: cpu, size: 4, decoders: [{name: uint}]}\n"
                "            - name: cpu\n"
            ),
            [
                ':14: programs[0].metrics.counters[0].labels[2].name: a second label named "cpu"',
            ],
            id="second cpu",
        ),
        pytest.param(
            ("            - name: gen\n              size: 8\n              decoders:\n                - name: uint\n"),
            (
                "            - name: gen\n"
                "              size: 8\n"
                "              decoders:\n"
                "                - name: uint\n"
                "            - name: core\n"
            ),
            [
                ":13: programs[0].metrics.counters[0].labels[1].size: missing; expected how many bytes of the key",
                ":13: programs[0].metrics.counters[0].labels[1].decoders: missing; expected a list of decoders",
            ],
            id="label that is neither of the key nor cpu",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          perf_event_array: true\n          table: gc_counts\n"),
            [
                (
                    ":7: programs[0].metrics.counters[0].perf_event_array: is not needed: which tables are of events "
                    "is seen from the code"
                ),
            ],
            id="table of events by ebpf_exporter",
        ),
        pytest.param(
            "          table: gc_counts\n",
            ("          table: gc_counts\n          flush_interval: 10s\n"),
            [
                (
                    ":8: programs[0].metrics.counters[0].flush_interval: is not supported: a scrape shows all that "
                    "was counted until then"
                ),
            ],
            id="flushed events by ebpf_exporter",
        ),
        pytest.param(
            "          table: gc_counts\n",
            "          perf_map: gc_counts\n",
            [
                ':7: programs[0].metrics.counters[0].perf_map: is called "table" here',
            ],
            id="perf_map of ebpf_exporter",
        ),
        pytest.param(
            "    usdt:\n",
            ("    kaddrs: [jiffies]\n    usdt:\n"),
            [
                ":13: programs[0].kaddrs: is about the kernel's addresses, which probes in user space do not need",
            ],
            id="kernel addresses of ebpf_exporter",
        ),
    ],
)
def test_a_broken_gauge_or_value_is_named_with_line_and_key_path(
    problems_of: Callable[[str], list[str]], counter_yaml: str, old: str, new: str, expected: list[str]
) -> None:
    assert counter_yaml.count(old) == 1
    assert problems_of(counter_yaml.replace(old, new)) == expected
