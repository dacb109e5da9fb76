"""Metrics, labels and decoders with one thing wrong, with the whole message of each."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "        - name: gc_total",
            "        - name: gc-total",
            [
                (
                    ":5: programs[0].metrics.counters[0].name: expected a metric's name of letters, digits and _, "
                    'got "gc-total"'
                ),
            ],
            id="metric name with a dash",
        ),
        pytest.param(
            "table: gc_counts",
            "table: gc counts",
            [
                (
                    ":7: programs[0].metrics.counters[0].table: "
                    'expected the name of a BPF map in the code, got "gc counts"'
                ),
            ],
            id="table with a space",
        ),
        pytest.param(
            "name: gen",
            "name: gen-eration",
            [
                (
                    ":9: programs[0].metrics.counters[0].labels[0].name: expected a label's name of letters, digits "
                    'and _ that starts with no digit, got "gen-eration"'
                ),
            ],
            id="label name with a dash",
        ),
        pytest.param(
            "name: gen",
            "name: pid",
            [
                (
                    ':9: programs[0].metrics.counters[0].labels[0].name: "pid" is taken: every series has the '
                    "target label of this name"
                ),
            ],
            id="label pid",
        ),
        pytest.param(
            "name: gen",
            "name: __gen",
            [
                (
                    ':9: programs[0].metrics.counters[0].labels[0].name: "__gen" starts with __, which Prometheus '
                    "keeps for itself"
                ),
            ],
            id="label with two underscores",
        ),
        pytest.param(
            "                - name: uint\n",
            (
                "                - name: uint\n"
                "            - name: gen\n"
                "              size: 8\n"
                "              decoders: [{name: uint}]\n"
            ),
            [
                ':13: programs[0].metrics.counters[0].labels[1].name: a second label named "gen"',
            ],
            id="second label of one name",
        ),
        pytest.param(
            "size: 8",
            "size: eight",
            [
                ':10: programs[0].metrics.counters[0].labels[0].size: expected a whole number, got "eight"',
            ],
            id="size of no number",
        ),
        pytest.param(
            "size: 8",
            "size: 0",
            [
                ":10: programs[0].metrics.counters[0].labels[0].size: expected at least 1, got 0",
            ],
            id="size 0",
        ),
        pytest.param(
            "size: 8",
            "size: 513",
            [
                ':10: programs[0].metrics.counters[0].labels[0].size: expected at most 512, got "513"',
            ],
            id="size over the stack",
        ),
        pytest.param(
            "size: 8",
            "size: 8.5",
            [
                ':10: programs[0].metrics.counters[0].labels[0].size: expected a whole number, got "8.5"',
            ],
            id="size with a fraction",
        ),
        pytest.param(
            "size: 8",
            "size: " + "9" * 5000,
            [
                (
                    ":10: programs[0].metrics.counters[0].labels[0].size: expected a whole number, got "
                    '"999999999999999999999999999999999999999999999999999999999999…"'
                ),
            ],
            id="size of many digits",
        ),
        pytest.param(
            "size: 8",
            ("size: 8\n              padding: -1"),
            [
                ':11: programs[0].metrics.counters[0].labels[0].padding: expected at least 0, got "-1"',
            ],
            id="negative padding",
        ),
        pytest.param(
            "size: 8",
            ("size: 8\n              padding: 505"),
            [
                (
                    ":8: programs[0].metrics.counters[0].labels: sizes and paddings add up to 513 bytes; expected at "
                    "most 512"
                ),
            ],
            id="sizes that add up to too much",
        ),
        pytest.param(
            ("decoders:\n                - name: uint\n"),
            "decoders: []\n",
            [
                ":11: programs[0].metrics.counters[0].labels[0].decoders: is empty; expected a list of decoders",
            ],
            id="empty decoders",
        ),
        pytest.param(
            "name: uint",
            "name: unit",
            [
                (
                    ':12: programs[0].metrics.counters[0].labels[0].decoders[0].name: no decoder "unit"; did you '
                    'mean "uint"?'
                ),
            ],
            id="unknown decoder",
        ),
        pytest.param(
            "size: 8",
            "size: 3",
            [
                (
                    ":10: programs[0].metrics.counters[0].labels[0].size: "
                    "uint cannot decode 3 bytes; expected 1, 2, 4 or 8"
                ),
            ],
            id="uint of 3 bytes",
        ),
        pytest.param(
            "name: uint",
            "name: inet_ip",
            [
                ":10: programs[0].metrics.counters[0].labels[0].size: inet_ip cannot decode 8 bytes; expected 4 or 16",
            ],
            id="inet_ip of 8 bytes",
        ),
        pytest.param(
            "                - name: uint\n",
            ("                - name: string\n                - name: uint\n"),
            [
                (
                    ":13: programs[0].metrics.counters[0].labels[0].decoders[1].name: uint reads the key's bytes: "
                    "expected it first, not after string"
                ),
            ],
            id="uint after string",
        ),
        pytest.param(
            "                - name: uint\n",
            ("                - name: uint\n                - name: static_map\n"),
            [
                (
                    ":13: programs[0].metrics.counters[0].labels[0].decoders[1].static_map: missing; expected a "
                    "mapping of texts to texts"
                ),
            ],
            id="static_map without a map",
        ),
        pytest.param(
            "                - name: uint\n",
            ("                - name: uint\n                  static_map: {1: a}\n"),
            [
                (
                    ":13: programs[0].metrics.counters[0].labels[0].decoders[0].static_map: is for the decoder "
                    "static_map, not for uint"
                ),
            ],
            id="static_map of another decoder",
        ),
        pytest.param(
            "                - name: uint\n",
            ("                - name: uint\n                  allow_unknown: true\n"),
            [
                (
                    ":13: programs[0].metrics.counters[0].labels[0].decoders[0].allow_unknown: is for the decoder "
                    "static_map, not for uint"
                ),
            ],
            id="allow_unknown of another decoder",
        ),
        pytest.param(
            "                - name: uint\n",
            (
                "                - name: uint\n"
                "                - name: static_map\n"
                "                  static_map: {1: a}\n"
                "                  allow_unknown: maybe\n"
            ),
            [
                (
                    ":15: programs[0].metrics.counters[0].labels[0].decoders[1].allow_unknown: expected true or "
                    'false, got "maybe"'
                ),
            ],
            id="allow_unknown that is no truth value",
        ),
        pytest.param(
            "                - name: uint\n",
            ("                - name: uint\n                - name: regexp\n"),
            [
                (
                    ":13: programs[0].metrics.counters[0].labels[0].decoders[1].regexps: missing; expected a list of "
                    "regular expressions"
                ),
            ],
            id="regexp without regexps",
        ),
        pytest.param(
            "                - name: uint\n",
            ("                - name: uint\n                  regexps: [a]\n"),
            [
                (
                    ":13: programs[0].metrics.counters[0].labels[0].decoders[0].regexps: is for the decoder regexp, "
                    "not for uint"
                ),
            ],
            id="regexps of another decoder",
        ),
        pytest.param(
            "                - name: uint\n",
            (
                "                - name: uint\n"
                "                - name: regexp\n"
                "                  regexps: [ok, '(a', 'b(?=c)']\n"
            ),
            [
                (
                    ":14: programs[0].metrics.counters[0].labels[0].decoders[1].regexps[1]: no regular expression "
                    '(RE2): "missing ): (a"'
                ),
                (
                    ":14: programs[0].metrics.counters[0].labels[0].decoders[1].regexps[2]: no regular expression "
                    '(RE2): "invalid perl operator: (?="'
                ),
            ],
            id="regexp that does not compile",
        ),
        pytest.param(
            "        - name: gc_total",
            "        - name: enabled_programs",
            [
                (
                    ':5: programs[0].metrics.counters[0].name: "enabled_programs" collides with the exporter\'s own '
                    "userspace_exporter_enabled_programs"
                ),
            ],
            id="name of an own gauge",
        ),
        pytest.param(
            "        - name: gc_total",
            "        - name: unreadable_files",
            [
                (
                    ':5: programs[0].metrics.counters[0].name: "unreadable_files" collides with the exporter\'s own '
                    "userspace_exporter_unreadable_files_total"
                ),
            ],
            id="name of an own counter's family",
        ),
        pytest.param(
            "        - name: gc_total",
            "        - name: scrape_seconds_count",
            [
                (
                    ':5: programs[0].metrics.counters[0].name: "scrape_seconds_count" collides with the exporter\'s '
                    "own userspace_exporter_scrape_seconds"
                ),
            ],
            id="name of an own histogram's count",
        ),
    ],
)
def test_a_broken_metric_is_named_with_line_and_key_path(
    problems_of: Callable[[str], list[str]], counter_yaml: str, old: str, new: str, expected: list[str]
) -> None:
    assert counter_yaml.count(old) == 1
    assert problems_of(counter_yaml.replace(old, new)) == expected
