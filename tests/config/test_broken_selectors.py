"""Selectors with one thing wrong, with the whole message of each."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param(
            "{}",
            [
                ":15: programs[0].attachment: no key; expected binary_name, exe, cmdline or another one of a selector",
            ],
            id="no key",
        ),
        pytest.param(
            "not: {}",
            [
                (
                    ":16: programs[0].attachment.not: no key; expected binary_name, exe, cmdline or another one of a "
                    "selector"
                ),
            ],
            id="not alone and empty",
        ),
        pytest.param(
            "any: []",
            [
                ":16: programs[0].attachment.any: is empty; expected selectors, one of which matches",
            ],
            id="empty any",
        ),
        pytest.param(
            "any: [{exe: /a}, {}]",
            [
                (
                    ":16: programs[0].attachment.any[1]: no key; expected binary_name, exe, cmdline or another one "
                    "of a selector"
                ),
            ],
            id="any of an empty selector",
        ),
        pytest.param(
            "exe: []",
            [
                ":16: programs[0].attachment.exe: is empty; expected a glob on the real path of the executable",
            ],
            id="empty list",
        ),
        pytest.param(
            "exe: ''",
            [
                ':16: programs[0].attachment.exe: expected a glob on the real path of the executable, got ""',
            ],
            id="empty glob",
        ),
        pytest.param(
            "library: ['*/libc.so.6', '']",
            [
                ':16: programs[0].attachment.library[1]: expected a glob on the path of a mapped file, got ""',
            ],
            id="empty glob in a list",
        ),
        pytest.param(
            'cwd: "/a\\0"',
            [
                ':16: programs[0].attachment.cwd: expected a glob on the path of the working directory, got "/a\\x00"',
            ],
            id="glob with a NUL",
        ),
        pytest.param(
            "argv0: " + "a" * 4097,
            [
                ":16: programs[0].attachment.argv0: 4097 characters; expected at most 4096",
            ],
            id="glob without end",
        ),
        pytest.param(
            "bianry_name: gunicorn",
            [
                ':16: programs[0].attachment.bianry_name: unknown key; did you mean "binary_name"?',
            ],
            id="misspelt key",
        ),
        pytest.param(
            "any_of: [{exe: /a}]",
            [
                ':16: programs[0].attachment.any_of: unknown key; did you mean "any"?',
            ],
            id="a field's name instead of the key",
        ),
        pytest.param(
            "parent: {binary: x}",
            [
                ':16: programs[0].attachment.parent.binary: unknown key; did you mean "binary_name"?',
            ],
            id="misspelt key in a parent",
        ),
        pytest.param(
            "comm: x",
            [
                (
                    ":16: programs[0].attachment.comm: unknown key; expected one of binary_name, exe, cmdline, "
                    "argv0, user, uid, cwd, environ, cgroup, systemd_unit, container_id, library, listens_on, "
                    "parent, ancestor, min_age, any, not"
                ),
            ],
            id="key of another exporter",
        ),
        pytest.param(
            "cmdline: '--role=(\\w+'",
            [
                ':16: programs[0].attachment.cmdline: no regular expression (RE2): "missing ): --role=(\\\\w+"',
            ],
            id="pattern that does not compile",
        ),
        pytest.param(
            "cmdline: [--role, '(?=x)']",
            [
                ':16: programs[0].attachment.cmdline[1]: no regular expression (RE2): "invalid perl operator: (?="',
            ],
            id="second pattern that does not compile",
        ),
        pytest.param(
            "cmdline: ['']",
            [
                ":16: programs[0].attachment.cmdline[0]: is empty, which every text matches; expected a pattern",
            ],
            id="empty pattern",
        ),
        pytest.param(
            "cmdline: '\\pL{1000}'",
            [
                (
                    ':16: programs[0].attachment.cmdline: no regular expression (RE2): "pattern too large - compile '
                    'failed"'
                ),
            ],
            id="pattern that is too large",
        ),
        pytest.param(
            "cmdline: " + "a" * 4097,
            [
                ":16: programs[0].attachment.cmdline: 4097 characters; expected at most 4096",
            ],
            id="pattern that is too long",
        ),
        pytest.param(
            "environ: {APP: '^(shop$'}",
            [
                ':16: programs[0].attachment.environ.APP: no regular expression (RE2): "missing ): ^(shop$"',
            ],
            id="pattern of a variable that does not compile",
        ),
        pytest.param(
            "environ: {APP=x: shop}",
            [
                (
                    ':16: programs[0].attachment.environ["APP=x"]: expected the name of an environment variable, got '
                    '"APP=x"'
                ),
            ],
            id="variable with an equals sign",
        ),
        pytest.param(
            "environ: {APP: }",
            [
                ":16: programs[0].attachment.environ.APP: is empty, which every text matches; expected a pattern",
            ],
            id="variable without a pattern",
        ),
        pytest.param(
            "environ: [APP=shop]",
            [
                ":16: programs[0].attachment.environ: expected a mapping, got a list",
            ],
            id="variables as a list",
        ),
        pytest.param(
            "environ: {APP: [shop]}",
            [
                ":16: programs[0].attachment.environ.APP: expected text, got a list",
            ],
            id="variable with a list",
        ),
        pytest.param(
            "environ: {}",
            [
                ":16: programs[0].attachment.environ: is empty; expected a pattern for each environment variable",
            ],
            id="no variable",
        ),
        pytest.param(
            "uid: root",
            [
                ':16: programs[0].attachment.uid: expected a whole number, got "root"',
            ],
            id="uid that is a name",
        ),
        pytest.param(
            "uid: [0, -1]",
            [
                ':16: programs[0].attachment.uid[1]: expected at least 0, got "-1"',
            ],
            id="uid that is negative",
        ),
        pytest.param(
            "uid: 4294967296",
            [
                ':16: programs[0].attachment.uid: expected less than 4294967296, got "4294967296"',
            ],
            id="uid beyond 32 bits",
        ),
        pytest.param(
            "user: ''",
            [
                ':16: programs[0].attachment.user: expected the name of a user, got ""',
            ],
            id="empty user",
        ),
        pytest.param(
            "container_id: shop-1",
            [
                (
                    ":16: programs[0].attachment.container_id: expected the beginning of a container's id, in "
                    'lowercase hexadecimal digits, got "shop-1"'
                ),
            ],
            id="container id that is a name",
        ),
        pytest.param(
            "container_id: 4F2A",
            [
                (
                    ":16: programs[0].attachment.container_id: expected the beginning of a container's id, in "
                    'lowercase hexadecimal digits, got "4F2A"'
                ),
            ],
            id="container id in capitals",
        ),
        pytest.param(
            "container_id: 00000000000000000000000000000000000000000000000000000000000000000",
            [
                (
                    ":16: programs[0].attachment.container_id: expected the beginning of a container's id, in "
                    "lowercase hexadecimal digits, got "
                    '"000000000000000000000000000000000000000000000000000000000000…"'
                ),
            ],
            id="container id that is too long",
        ),
        pytest.param(
            "listens_on: 0",
            [
                ':16: programs[0].attachment.listens_on: expected a port or a range of ports from 1 to 65535, got "0"',
            ],
            id="port 0",
        ),
        pytest.param(
            "listens_on: [5432, 65536]",
            [
                (
                    ":16: programs[0].attachment.listens_on[1]: expected a port or a range of ports from 1 to 65535, "
                    'got "65536"'
                ),
            ],
            id="port beyond 16 bits",
        ),
        pytest.param(
            "listens_on: 6010-6000",
            [
                (
                    ":16: programs[0].attachment.listens_on: expected a port or a range of ports from 1 to 65535, "
                    'got "6010-6000"'
                ),
            ],
            id="range of ports that falls",
        ),
        pytest.param(
            "listens_on: postgres",
            [
                (
                    ":16: programs[0].attachment.listens_on: expected a port or a range of ports from 1 to 65535, "
                    'got "postgres"'
                ),
            ],
            id="port that is a word",
        ),
        pytest.param(
            "listens_on: [[6000, 6010]]",
            [
                (
                    ":16: programs[0].attachment.listens_on[0]: expected a port or a range of ports from 1 to 65535, "
                    "got a list"
                ),
            ],
            id="range of ports as a list",
        ),
        pytest.param(
            "listens_on: 6000-",
            [
                (
                    ":16: programs[0].attachment.listens_on: expected a port or a range of ports from 1 to 65535, "
                    'got "6000-"'
                ),
            ],
            id="range of ports without an end",
        ),
        pytest.param(
            "min_age: 2 days",
            [
                (
                    ":16: programs[0].attachment.min_age: expected seconds or a duration such as 500ms, 1s or 1m30s, "
                    'got "2 days"'
                ),
            ],
            id="age of no unit",
        ),
        pytest.param(
            "min_age: 169h",
            [
                ':16: programs[0].attachment.min_age: expected from 0 to 604800 seconds, got "169h"',
            ],
            id="age over a week",
        ),
        pytest.param(
            "min_age: [2s]",
            [
                (
                    ":16: programs[0].attachment.min_age: expected seconds or a duration such as 500ms, 1s or 1m30s, "
                    "got a list"
                ),
            ],
            id="age as a list",
        ),
        pytest.param(
            "parent: postgres",
            [
                ':16: programs[0].attachment.parent: expected a mapping, got "postgres"',
            ],
            id="parent that is a name",
        ),
        pytest.param(
            "parent: [{exe: /a}]",
            [
                ":16: programs[0].attachment.parent: expected a mapping, got a list",
            ],
            id="parent that is a list",
        ),
        pytest.param(
            "parent: {}",
            [
                (
                    ":16: programs[0].attachment.parent: no key; expected binary_name, exe, cmdline or another one "
                    "of a selector"
                ),
            ],
            id="parent without a key",
        ),
        pytest.param(
            "ancestor: {parent: {exe: ''}}",
            [
                (
                    ":16: programs[0].attachment.ancestor.parent.exe: expected a glob on the real path of the "
                    'executable, got ""'
                ),
            ],
            id="ancestor with an empty glob",
        ),
        pytest.param(
            "not: postgres",
            [
                ':16: programs[0].attachment.not: expected a mapping, got "postgres"',
            ],
            id="not with a text",
        ),
        pytest.param(
            "not: {cmdline: '('}",
            [
                ':16: programs[0].attachment.not.cmdline: no regular expression (RE2): "missing ): ("',
            ],
            id="single not with a broken pattern",
        ),
        pytest.param(
            "not: [{exe: /a}, {cmdline: ['(', x, ')']}]",
            [
                ':16: programs[0].attachment.not[1].cmdline[0]: no regular expression (RE2): "missing ): ("',
                ':16: programs[0].attachment.not[1].cmdline[2]: no regular expression (RE2): "unexpected ): )"',
            ],
            id="list of not with a broken pattern",
        ),
        pytest.param(
            "not: {any: [{exe: /a}, {uid: x}]}",
            [
                ':16: programs[0].attachment.not.any[1].uid: expected a whole number, got "x"',
            ],
            id="any within not",
        ),
        pytest.param(
            "{not: {not: {not: {not: {not: {not: {not: {not: {not: {exe: /a}}}}}}}}}}",
            [
                ":16: programs[0].attachment.not.not.not.not.not.not.not.not: more than 8 selectors within each other",
            ],
            id="selectors within each other",
        ),
        pytest.param(
            "exe: [[/a]]",
            [
                ":16: programs[0].attachment.exe[0]: expected text, got a list",
            ],
            id="list of a list",
        ),
        pytest.param(
            "exe: {glob: /a}",
            [
                ":16: programs[0].attachment.exe: expected text, got a mapping",
            ],
            id="mapping for a text",
        ),
        pytest.param(
            "exe: [/a, ~]",
            [
                ":16: programs[0].attachment.exe[1]: expected text, got nothing",
            ],
            id="nothing in a list",
        ),
    ],
)
def test_a_broken_selector_is_named_with_line_and_key_path(
    problems_of: Callable[[str], list[str]], counter_yaml: str, selector: str, expected: list[str]
) -> None:
    assert problems_of(counter_yaml.replace("binary_name: gunicorn", selector)) == expected


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        pytest.param(
            "exclude: {}\n",
            [
                ":1: exclude: no key; expected binary_name, exe, cmdline or another one of a selector",
            ],
            id="exclude without a key",
        ),
        pytest.param(
            "exclude: postgres\n",
            [
                ':1: exclude: expected a mapping, got "postgres"',
            ],
            id="exclude with a text",
        ),
        pytest.param(
            "exclude: [{exe: /a}, {cmdline: '('}]\n",
            [
                ':1: exclude[1].cmdline: no regular expression (RE2): "missing ): ("',
            ],
            id="exclude with one of two broken",
        ),
        pytest.param(
            ("exclude:\n  exee: /a\n"),
            [
                ':2: exclude.exee: unknown key; did you mean "exe"?',
            ],
            id="exclude with a misspelt key",
        ),
    ],
)
def test_a_broken_exclude_is_named_with_line_and_key_path(
    problems_of: Callable[[str], list[str]], counter_yaml: str, exclude: str, expected: list[str]
) -> None:
    assert problems_of(exclude + counter_yaml) == expected


def test_a_problem_below_attachments_is_told_with_that_spelling(
    problems_of: Callable[[str], list[str]], counter_yaml: str
) -> None:
    text = counter_yaml.replace("attachment:", "attachments:").replace("binary_name: gunicorn", "not: {exe: ''}")

    assert problems_of(text) == [
        ':16: programs[0].attachments.not.exe: expected a glob on the real path of the executable, got ""'
    ]
