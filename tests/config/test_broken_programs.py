"""Programs with one thing wrong, with the whole message of each."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "      gc__start: trace_gc\n",
            ("      gc__start: trace_gc\n      gc__start: trace_gc\n"),
            [
                ":15: programs[0].usdt.gc__start: duplicate key, first in line 14",
            ],
            id="duplicate key",
        ),
        pytest.param(
            "    attachment:\n",
            ("    name: other\n    attachment:\n"),
            [
                ":15: programs[0].name: duplicate key, first in line 2",
            ],
            id="duplicate program key",
        ),
        pytest.param(
            "    usdt:\n",
            "    usdts:\n",
            [
                ':13: programs[0].usdts: unknown key; did you mean "usdt"?',
            ],
            id="unknown key",
        ),
        pytest.param(
            "          help: Collections\n",
            "          xyzzy: 1\n",
            [
                (
                    ":6: programs[0].metrics.counters[0].xyzzy: unknown key; expected one of "
                    "name, help, table, labels, value_type, value_multiplier, value_offset"
                ),
            ],
            id="unknown key that looks like nothing",
        ),
        pytest.param(
            "          help: Collections\n",
            '          "a\\nb": 1\n',
            [
                (
                    ':6: programs[0].metrics.counters[0]["a\\nb"]: unknown key; expected one of '
                    "name, help, table, labels, value_type, value_multiplier, value_offset"
                ),
            ],
            id="unknown key with a line break",
        ),
        pytest.param(
            "    attachment:\n",
            "    attachment:\n      pgid: 1\n",
            [
                (
                    ":16: programs[0].attachment.pgid: unknown key; expected one of binary_name, exe, cmdline, argv0, "
                    "user, uid, cwd, environ, cgroup, systemd_unit, container_id, library, listens_on, parent, "
                    "ancestor, min_age, any, not"
                ),
            ],
            id="unknown key of a selector",
        ),
        pytest.param(
            ("    code: |\n      int trace_gc(void *ctx) { return 0; }\n"),
            "",
            [
                ":2: programs[0].code: missing; expected the program in BPF C",
            ],
            id="missing code",
        ),
        pytest.param(
            ("  - name: gc_total\n    metrics"),
            "  - metrics",
            [
                ":2: programs[0].name: missing; expected the program's name",
            ],
            id="missing name",
        ),
        pytest.param(
            "          table: gc_counts\n",
            "",
            [
                ":5: programs[0].metrics.counters[0].table: missing; expected the name of a BPF map in the code",
            ],
            id="missing table",
        ),
        pytest.param(
            "              size: 8\n",
            "",
            [
                ":9: programs[0].metrics.counters[0].labels[0].size: missing; expected how many bytes of the key",
            ],
            id="missing size",
        ),
        pytest.param(
            ("              decoders:\n                - name: uint\n"),
            "",
            [
                ":9: programs[0].metrics.counters[0].labels[0].decoders: missing; expected a list of decoders",
            ],
            id="missing decoders",
        ),
        pytest.param(
            ("    attachment:\n      binary_name: gunicorn\n"),
            "",
            [
                ":2: programs[0].attachment: missing; expected a mapping with binary_name, exe, cmdline or another key",
            ],
            id="missing attachment",
        ),
        pytest.param(
            "      binary_name: gunicorn\n",
            "      {}\n",
            [
                (
                    ":15: programs[0].attachment: no key; expected binary_name, exe, cmdline or another one of a "
                    "selector"
                ),
            ],
            id="empty attachment",
        ),
        pytest.param(
            "    code",
            ("    attachments: {binary_name: x}\n    code"),
            [
                ':17: programs[0].attachments: the same as "attachment", which is there too; expected one of them',
            ],
            id="attachment twice",
        ),
        pytest.param(
            ("    attachment:\n      binary_name: gunicorn\n"),
            ("    attachments:\n      - binary_name: gunicorn\n"),
            [
                ":15: programs[0].attachments: expected a mapping, got a list",
            ],
            id="attachments as a list",
        ),
        pytest.param(
            (
                "    metrics:\n"
                "      counters:\n"
                "        - name: gc_total\n"
                "          help: Collections\n"
                "          table: gc_counts\n"
                "          labels:\n"
                "            - name: gen\n"
                "              size: 8\n"
                "              decoders:\n"
                "                - name: uint\n"
            ),
            "    metrics: []\n",
            [
                ":3: programs[0].metrics: expected a mapping, got a list",
            ],
            id="metrics as a list",
        ),
        pytest.param(
            ("    code: |\n      int trace_gc(void *ctx) { return 0; }\n"),
            ("    code: x\n  - text\n"),
            [
                ':18: programs[1]: expected a mapping, got "text"',
            ],
            id="a program that is a text",
        ),
        pytest.param(
            ("  - name: gc_total\n    metrics"),
            ("  - name: [a]\n    metrics"),
            [
                ":2: programs[0].name: expected text, got a list",
            ],
            id="a name that is a list",
        ),
        pytest.param(
            "      gc__start: trace_gc\n",
            "      gc__start: [trace_gc]\n",
            [
                ":14: programs[0].usdt.gc__start: expected text, got a list",
            ],
            id="a probe that is a list",
        ),
        pytest.param(
            ("    code: |\n      int trace_gc(void *ctx) { return 0; }\n"),
            "    code: ''\n",
            [
                ":17: programs[0].code: is empty; expected the program in BPF C",
            ],
            id="empty code",
        ),
        pytest.param(
            ("  - name: gc_total\n    metrics"),
            ("  - name: ''\n    metrics"),
            [
                ':2: programs[0].name: expected 1 to 128 printable characters, got ""',
            ],
            id="empty program name",
        ),
        pytest.param(
            ("  - name: gc_total\n    metrics"),
            ('  - name: "a\\nb"\n    metrics'),
            [
                ':2: programs[0].name: expected 1 to 128 printable characters, got "a\\nb"',
            ],
            id="program name with a line break",
        ),
        pytest.param(
            "binary_name: gunicorn",
            "binary_name: ''",
            [
                ':16: programs[0].attachment.binary_name: expected the name of a process, as in /proc/PID/comm, got ""',
            ],
            id="empty binary_name",
        ),
        pytest.param(
            ("    usdt:\n      gc__start: trace_gc\n"),
            "",
            [
                ":2: programs[0]: no probe; expected usdt, uprobes or uretprobes",
            ],
            id="no probe",
        ),
        pytest.param(
            ("    usdt:\n      gc__start: trace_gc\n"),
            ("    kprobes:\n      do_sys_open: trace_gc\n"),
            [
                ":2: programs[0]: no probe; expected usdt, uprobes or uretprobes",
            ],
            id="only kernel probes",
        ),
        pytest.param(
            "      gc__start:",
            "      a:b:c:",
            [
                ':14: programs[0].usdt["a:b:c"]: expected "probe" or "provider:probe", got "a:b:c"',
            ],
            id="usdt probe with two colons",
        ),
        pytest.param(
            "      gc__start:",
            "      gc start:",
            [
                ':14: programs[0].usdt["gc start"]: expected "probe" or "provider:probe", got "gc start"',
            ],
            id="usdt probe with a space",
        ),
        pytest.param(
            ("trace_gc\n    att"),
            ("trace-gc\n    att"),
            [
                ':14: programs[0].usdt.gc__start: expected the name of a function in the code, got "trace-gc"',
            ],
            id="function that is no identifier",
        ),
    ],
)
def test_a_broken_program_is_named_with_line_and_key_path(
    problems_of: Callable[[str], list[str]], counter_yaml: str, old: str, new: str, expected: list[str]
) -> None:
    assert counter_yaml.count(old) == 1
    assert problems_of(counter_yaml.replace(old, new)) == expected


def test_two_programs_of_one_name_are_refused(
    problems_of: Callable[[str], list[str]], with_second_program: Callable[[str], str]
) -> None:
    text = with_second_program("{}").replace("name: second", "name: gc_total")

    assert problems_of(text) == [':19: programs[1].name: a second program named "gc_total"; expected another name']


def test_all_problems_are_reported_at_once_and_none_is_a_consequence_of_another(
    problems_of: Callable[[str], list[str]], counter_yaml: str
) -> None:
    broken = (
        counter_yaml.replace("size: 8", "size: eight")
        .replace("name: uint", "name: unit")
        .replace("usdt:", "usdts:")
        .replace("code:", "cod:")
        .replace("name: gen", "name: pid")
    )

    label = "programs[0].metrics.counters[0].labels[0]"
    assert problems_of(broken + "  - text\n") == [
        f':9: {label}.name: "pid" is taken: every series has the target label of this name',
        f':10: {label}.size: expected a whole number, got "eight"',
        f':12: {label}.decoders[0].name: no decoder "unit"; did you mean "uint"?',
        ':13: programs[0].usdts: unknown key; did you mean "usdt"?',
        ':17: programs[0].cod: unknown key; did you mean "code"?',
        ':19: programs[1]: expected a mapping, got "text"',
    ]
