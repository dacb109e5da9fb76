"""Histograms with one thing wrong, with the whole message of each."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "      malloc:",
            "      ./libc.so:malloc:",
            [
                (
                    ':17: programs[0].uprobes["./libc.so:malloc"]: expected a path from "/" or the name of a '
                    'library, got "./libc.so"'
                ),
            ],
            id="uprobe with a relative path",
        ),
        pytest.param(
            "      malloc:",
            '      "/lib/libc.so:":',
            [
                ':17: programs[0].uprobes["/lib/libc.so:"]: expected "symbol" or "path:symbol", got "/lib/libc.so:"',
            ],
            id="uprobe without a symbol",
        ),
        pytest.param(
            "exp2",
            "exp3",
            [
                (
                    ":8: programs[0].metrics.histograms[0].bucket_type: expected one of exp2, exp2zero, linear, "
                    'fixed, got "exp3"; did you mean "exp2"?'
                ),
            ],
            id="unknown bucket_type",
        ),
        pytest.param(
            "          bucket_type: exp2\n",
            "",
            [
                ":5: programs[0].metrics.histograms[0].bucket_type: missing; expected exp2, exp2zero, linear or fixed",
            ],
            id="missing bucket_type",
        ),
        pytest.param(
            "bucket_max: 31",
            "bucket_max: 0",
            [
                ":10: programs[0].metrics.histograms[0].bucket_max: expected more than bucket_min, which is 0, got 0",
            ],
            id="bucket_max under bucket_min",
        ),
        pytest.param(
            "          bucket_max: 31\n",
            "",
            [
                ":5: programs[0].metrics.histograms[0].bucket_max: missing; expected more than bucket_min, which is 0",
            ],
            id="missing bucket_max",
        ),
        pytest.param(
            ("bucket_min: 0\n          bucket_max: 31"),
            ("bucket_min: 1000\n          bucket_max: 1024"),
            [
                (
                    ":10: programs[0].metrics.histograms[0].bucket_max: a bucket's upper bound is too large for a "
                    "number of 64 bits"
                ),
            ],
            id="bucket_max that no float can hold",
        ),
        pytest.param(
            ("bucket_type: exp2\n          bucket_min: 0\n          bucket_max: 31"),
            ("bucket_type: linear\n          bucket_min: 0\n          bucket_max: 1024"),
            [
                ":10: programs[0].metrics.histograms[0].bucket_max: makes 1025 buckets; expected at most 1024",
            ],
            id="too many buckets",
        ),
        pytest.param(
            "bucket_max: 31",
            "bucket_max: 9223372036854775808",
            [
                (
                    ":10: programs[0].metrics.histograms[0].bucket_max: expected less than 9223372036854775808, got "
                    '"9223372036854775808"'
                ),
            ],
            id="bucket_max beyond 64 bits",
        ),
        pytest.param(
            ("bucket_type: exp2\n          bucket_min: 0\n          bucket_max: 31"),
            ("bucket_type: linear\n          bucket_min: 9007199254740992\n          bucket_max: 9007199254740994"),
            [
                (
                    ":10: programs[0].metrics.histograms[0].bucket_max: the buckets' upper bounds do not rise; "
                    "expected each above the one before"
                ),
            ],
            id="bounds that do not rise",
        ),
        pytest.param(
            ("bucket_type: exp2\n          bucket_min: 0\n          bucket_max: 31"),
            "bucket_type: fixed",
            [
                ":5: programs[0].metrics.histograms[0].bucket_keys: missing; a histogram of type fixed needs its keys",
            ],
            id="fixed without keys",
        ),
        pytest.param(
            ("bucket_type: exp2\n          bucket_min: 0\n          bucket_max: 31"),
            ("bucket_type: fixed\n          bucket_keys: [1, 5, 5]"),
            [
                (
                    ":9: programs[0].metrics.histograms[0].bucket_keys: the buckets' upper bounds do not rise; "
                    "expected each above the one before"
                ),
            ],
            id="fixed keys that fall",
        ),
        pytest.param(
            ("bucket_type: exp2\n          bucket_min: 0\n          bucket_max: 31"),
            ("bucket_type: fixed\n          bucket_keys: [1, .inf]"),
            [
                ':9: programs[0].metrics.histograms[0].bucket_keys[1]: expected a number, got ".inf"',
            ],
            id="fixed key of no number",
        ),
        pytest.param(
            "bucket_max: 31",
            ("bucket_max: 31\n          bucket_multiplier: -1e-9"),
            [
                ":11: programs[0].metrics.histograms[0].bucket_multiplier: expected a number above 0, got -1e-09",
            ],
            id="negative multiplier",
        ),
        pytest.param(
            "bucket_max: 31",
            ("bucket_max: 31\n          bucket_multiplier: 1ms"),
            [
                ':11: programs[0].metrics.histograms[0].bucket_multiplier: expected a number, got "1ms"',
            ],
            id="multiplier of no number",
        ),
        pytest.param(
            (
                "          labels:\n"
                "            - name: bucket\n"
                "              size: 8\n"
                "              decoders:\n"
                "                - name: uint\n"
            ),
            "          labels: []\n",
            [
                (
                    ":11: programs[0].metrics.histograms[0].labels: is empty; expected a list of labels, the last of "
                    "them the bucket"
                ),
            ],
            id="histogram without labels",
        ),
        pytest.param(
            "- name: uint",
            "- name: string",
            [
                (
                    ":14: programs[0].metrics.histograms[0].labels[0].decoders: the last label of a histogram is the "
                    'bucket: expected "uint" as its last decoder'
                ),
            ],
            id="bucket that is no number",
        ),
        pytest.param(
            "            - name: bucket\n",
            ("            - {name: le, size: 8, decoders: [{name: uint}]}\n            - name: bucket\n"),
            [
                (
                    ':12: programs[0].metrics.histograms[0].labels[0].name: "le" is taken: a histogram has the upper '
                    "bound in it"
                ),
            ],
            id="label le",
        ),
        pytest.param(
            "- name: malloc_ns",
            "- name: worker_restarts",
            [
                (
                    ':5: programs[0].metrics.histograms[0].name: "worker_restarts" collides with the exporter\'s own '
                    "userspace_exporter_worker_restarts_total"
                ),
            ],
            id="name of an own metric's family as a histogram",
        ),
        pytest.param(
            "    uprobes:\n",
            "    target_labels: {le: x}\n    uprobes:\n",
            [
                ':16: programs[0].target_labels.le: "le" is taken: a histogram has the upper bound in it',
            ],
            id="target label le",
        ),
        pytest.param(
            "{binary_name: redis-server}",
            "{cmdline: '(?P<le>x)'}",
            [
                (
                    ':18: programs[0].attachment.cmdline: a named group becomes a label: "le" is taken: a histogram '
                    "has the upper bound in it"
                ),
            ],
            id="named group le",
        ),
        pytest.param(
            "            - name: bucket\n",
            "            - name: cpu\n            - name: bucket\n",
            [
                (
                    ':12: programs[0].metrics.histograms[0].labels[0]: "cpu" without a size splits a per-CPU map, '
                    "which is not done for histograms; expected a size"
                ),
            ],
            id="histogram by CPU",
        ),
        pytest.param(
            "bucket_max: 31",
            "bucket_max: [31]",
            [
                ":10: programs[0].metrics.histograms[0].bucket_max: expected a whole number, got a list",
            ],
            id="bucket_max that is a list",
        ),
        pytest.param(
            "bucket_max: 31",
            "bucket_max: 31\n          value_type: u64",
            [
                (':11: programs[0].metrics.histograms[0].value_type: unknown key; did you mean "bucket_type"?'),
            ],
            id="value_type of a histogram",
        ),
    ],
)
def test_a_broken_histogram_is_named_with_line_and_key_path(
    problems_of: Callable[[str], list[str]], histogram_yaml: str, old: str, new: str, expected: list[str]
) -> None:
    assert histogram_yaml.count(old) == 1
    assert problems_of(histogram_yaml.replace(old, new)) == expected
