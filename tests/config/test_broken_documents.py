"""Files that are no config, with the whole message of each."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "",
            [
                ':1: is empty; expected "programs:" and a list',
            ],
            id="empty file",
        ),
        pytest.param(
            "# programs\n",
            [
                ':1: is empty; expected "programs:" and a list',
            ],
            id="only a comment",
        ),
        pytest.param(
            "- name: x\n",
            [
                ':1: expected a mapping with "programs:", got a list',
            ],
            id="a list",
        ),
        pytest.param(
            "programs\n",
            [
                ':1: expected a mapping with "programs:", got text',
            ],
            id="a text",
        ),
        pytest.param(
            "program: []\n",
            [
                ':1: program: unknown key; did you mean "programs"?',
            ],
            id="no programs key",
        ),
        pytest.param(
            "programs: []\n",
            [
                ":1: programs: is empty; expected a list of programs",
            ],
            id="empty programs",
        ),
        pytest.param(
            "programs:\n",
            [
                ":1: programs: missing; expected a list of programs",
            ],
            id="programs without a value",
        ),
        pytest.param(
            ("programs:\n  name: x\n"),
            [
                ":1: programs: expected a list, got a mapping",
            ],
            id="programs is a mapping",
        ),
        pytest.param(
            'programs: "\n',
            [
                ":2: not YAML: found unexpected end of stream while scanning a quoted scalar that starts in line 1",
            ],
            id="unclosed quote",
        ),
        pytest.param(
            "programs: [\n",
            [
                (
                    ":2: not YAML: expected the node content, but found '<stream end>' while parsing a flow node "
                    "that starts in line 2"
                ),
            ],
            id="unclosed list",
        ),
        pytest.param(
            ("programs:\n\t- name: x\n"),
            [
                ":2: not YAML: found character '\\t' that cannot start any token while scanning for the next token",
            ],
            id="tab for indentation",
        ),
        pytest.param(
            "programs: a: b\n",
            [
                ":1: not YAML: mapping values are not allowed here",
            ],
            id="nothing but a colon too many",
        ),
        pytest.param(
            "programs: *programs\n",
            [
                ":1: not YAML: found undefined alias 'programs'",
            ],
            id="unknown alias",
        ),
        pytest.param(
            "programs: &programs [*programs]\n",
            [
                ":1: programs[0]: an alias contains itself",
            ],
            id="alias of itself",
        ),
        pytest.param(
            ("programs:\n  - &program\n    <<: *program\n"),
            [
                ":2: programs[0]: an alias contains itself",
            ],
            id="merge of itself",
        ),
        pytest.param(
            ("programs:\n  - <<: text\n    name: x\n"),
            [
                ':2: programs[0]["<<"]: expected a mapping, or a list of mappings, to merge',
                ":2: programs[0].attachment: missing; expected a mapping with binary_name, exe, cmdline or another key",
                ":2: programs[0].code: missing; expected the program in BPF C",
                ":2: programs[0]: no probe; expected usdt, uprobes or uretprobes",
            ],
            id="merge of a text",
        ),
        pytest.param(
            ("programs:\n  - \x00\n"),
            [
                ":2: character U+0000 is not allowed in YAML",
            ],
            id="NUL",
        ),
        pytest.param(
            ("programs:\n  - \x07\n"),
            [
                ":2: character U+0007 is not allowed in YAML",
            ],
            id="control character",
        ),
        pytest.param(
            "programs: !!python/object/apply:os.system [id]\n",
            [
                ':1: programs: tag "tag:yaml.org,2002:python/object/apply:os.system" is not supported',
                ':1: programs[0]: expected a mapping, got "id"',
            ],
            id="python tag",
        ),
        pytest.param(
            ("? [a, b]\n: c\n"),
            [
                ":1: a key is a list or a mapping; expected text",
                ":1: programs: missing; expected a list of programs",
            ],
            id="list as a key",
        ),
        pytest.param(
            ("metrics:\n  counters:\n    - name: timers\n      help: x\n      labels: []\n"),
            [
                (
                    ':1: metrics: belongs to a program: expected "programs:" and a list, each program with its code '
                    "and metrics"
                ),
            ],
            id="newer layout of ebpf_exporter",
        ),
        pytest.param(
            ("tracing:\n  spans: []\n"),
            [
                ":1: tracing: is not supported: only metrics are made",
            ],
            id="tracing of ebpf_exporter",
        ),
        pytest.param(
            ("programs: []\ncgroup_id_map: {name: x}\n"),
            [
                ":1: programs: is empty; expected a list of programs",
                (
                    ':2: cgroup_id_map: is not supported; the fields "{cgroup}" and "{container_id}" of '
                    "target_labels need none"
                ),
            ],
            id="cgroup map of ebpf_exporter",
        ),
        pytest.param(
            ('programs:\n  - name: "\\ud800"\n    usdt: {a: b}\n    attachment: {exe: /a}\n    code: x\n'),
            [
                ":2: programs[0].name: holds half a character (U+D800 to U+DFFF), which is no text",
            ],
            id="half a character",
        ),
        pytest.param(
            ('programs:\n  - name: x\n    usdt: {"a\\udfff": b}\n    attachment: {exe: /a}\n    code: x\n'),
            [
                ':3: programs[0].usdt: the key "a\\udfff" holds half a character, which is no text',
            ],
            id="key with half a character",
        ),
        pytest.param(
            ('programs:\n  - name: x\n    usdt: {a: b}\n    attachment: {exe: /a}\n    code: "x\\0"\n'),
            [
                ":5: programs[0].code: holds a NUL; expected the program in BPF C",
            ],
            id="code with a NUL",
        ),
        pytest.param(
            (
                "programs:\n"
                "  - name: x\n"
                "    usdt: {a: b}\n"
                "    attachment: {exe: /a}\n"
                "    cflags: [-O2, '']\n"
                "    code: x\n"
            ),
            [
                ':5: programs[0].cflags[1]: expected an option for clang, got ""',
            ],
            id="empty flag of clang",
        ),
    ],
)
def test_a_file_that_is_no_config_is_refused_with_one_line_per_problem(
    problems_of: Callable[[str], list[str]], text: str, expected: list[str]
) -> None:
    assert problems_of(text) == expected


def test_a_second_document_is_refused(problems_of: Callable[[str], list[str]], counter_yaml: str) -> None:
    assert problems_of(counter_yaml + "---\nprograms: []\n") == [":19: a second document starts here; expected one"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[" * 1_000_000, ":1: more than 40 levels deep; is this a config?", id="flow lists"),
        pytest.param("- " * 300_000, ":1: more than 40 levels deep; is this a config?", id="block lists"),
        pytest.param("[" + "a," * 100_000 + "]", ":1: more than 50000 nodes; is this a config?", id="items"),
        pytest.param("a" * (1 << 20) + "b", ": is larger than 1048576 bytes; is this a config?", id="bytes"),
        pytest.param(
            "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
            ":1: more than 50000 nodes, aliases counted; is this a config?",
            id="aliases of aliases",
        ),
    ],
)
def test_a_file_that_grows_without_bounds_is_refused(
    problems_of: Callable[[str], list[str]], text: str, expected: str
) -> None:
    assert problems_of(text) == [expected]
