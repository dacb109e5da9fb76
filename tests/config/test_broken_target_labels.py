"""Target labels, and bounds of a program, with one thing wrong, with the whole message of each."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param(
            "target_labels: {my-role: x}",
            [
                (
                    ":13: programs[0].target_labels.my-role: expected a label's name of letters, digits and _ that "
                    'starts with no digit, got "my-role"'
                ),
            ],
            id="name with a dash",
        ),
        pytest.param(
            "target_labels: {__role: x}",
            [
                ':13: programs[0].target_labels.__role: "__role" starts with __, which Prometheus keeps for itself',
            ],
            id="name that Prometheus keeps",
        ),
        pytest.param(
            'target_labels: {"a\\nb": x}',
            [
                (
                    ':13: programs[0].target_labels["a\\nb"]: expected a label\'s name of letters, digits and _ '
                    'that starts with no digit, got "a\\nb"'
                ),
            ],
            id="name with a line break",
        ),
        pytest.param(
            "target_labels: {role: ''}",
            [
                ":13: programs[0].target_labels.role: is empty; expected a text or fields such as {pid}",
            ],
            id="empty template",
        ),
        pytest.param(
            "target_labels: {role: }",
            [
                ":13: programs[0].target_labels.role: is empty; expected a text or fields such as {pid}",
            ],
            id="template without a value",
        ),
        pytest.param(
            "target_labels: {role: [x]}",
            [
                ":13: programs[0].target_labels.role: expected text, got a list",
            ],
            id="template that is a list",
        ),
        pytest.param(
            "target_labels: [pid]",
            [
                ":13: programs[0].target_labels: expected a mapping, got a list",
            ],
            id="labels as a list",
        ),
        pytest.param(
            "target_labels: pid",
            [
                ':13: programs[0].target_labels: expected a mapping, got "pid"',
            ],
            id="labels as a text",
        ),
        pytest.param(
            "target_labels: {unit: '{systemdunit}'}",
            [
                ':13: programs[0].target_labels.unit: no field "systemdunit"; did you mean "systemd_unit"?',
            ],
            id="misspelt field",
        ),
        pytest.param(
            "target_labels: {x: '{hostname}'}",
            [
                (
                    ':13: programs[0].target_labels.x: no field "hostname"; expected one of pid, ppid, comm, exe, '
                    "exe_base, user, uid, cgroup, systemd_unit, container_id, cmdline.GROUP, environ.NAME"
                ),
            ],
            id="unknown field",
        ),
        pytest.param(
            'target_labels: {x: "{host\\nname}"}',
            [
                (
                    ':13: programs[0].target_labels.x: no field "host\\nname"; expected one of pid, ppid, comm, exe, '
                    "exe_base, user, uid, cgroup, systemd_unit, container_id, cmdline.GROUP, environ.NAME"
                ),
            ],
            id="field with a line break",
        ),
        pytest.param(
            "target_labels: {x: '{pid:05}'}",
            [
                ':13: programs[0].target_labels.x: expected "pid" without a format, got "{pid:05}"',
            ],
            id="field with a format",
        ),
        pytest.param(
            "target_labels: {x: '{comm!r}'}",
            [
                ':13: programs[0].target_labels.x: expected "comm" without a format, got "{comm!r}"',
            ],
            id="field with a conversion",
        ),
        pytest.param(
            "target_labels: {x: '{}'}",
            [
                (
                    ':13: programs[0].target_labels.x: no field ""; expected one of pid, ppid, comm, exe, exe_base, '
                    "user, uid, cgroup, systemd_unit, container_id, cmdline.GROUP, environ.NAME"
                ),
            ],
            id="field without a name",
        ),
        pytest.param(
            "target_labels: {x: '{pid'}",
            [
                (
                    ":13: programs[0].target_labels.x: expected fields in pairs of braces, a brace itself twice, got "
                    '"{pid"'
                ),
            ],
            id="brace that is not closed",
        ),
        pytest.param(
            "target_labels: {x: 'pid}'}",
            [
                (
                    ":13: programs[0].target_labels.x: expected fields in pairs of braces, a brace itself twice, got "
                    '"pid}"'
                ),
            ],
            id="brace that is not opened",
        ),
        pytest.param(
            "target_labels: {role: '{cmdline.role}'}",
            [
                ':13: programs[0].target_labels.role: no pattern of attachment.cmdline has a group "role"',
            ],
            id="group that no pattern has",
        ),
        pytest.param(
            "target_labels: {app: '{environ.}'}",
            [
                (
                    ':13: programs[0].target_labels.app: no field "environ."; expected one of pid, ppid, comm, exe, '
                    "exe_base, user, uid, cgroup, systemd_unit, container_id, cmdline.GROUP, environ.NAME"
                ),
            ],
            id="variable without a name",
        ),
        pytest.param(
            "target_labels: {gen: '{pid}'}",
            [
                (
                    ':9: programs[0].metrics.counters[0].labels[0].name: "gen" is taken: every series has the target '
                    "label of this name"
                ),
            ],
            id="label of a metric",
        ),
        pytest.param(
            "target_labels: {" + ", ".join(f"l{number}: x" for number in range(64)) + "}",
            [
                (
                    ":8: programs[0].metrics.counters[0].labels: 65 labels, 64 target labels among them; expected at "
                    "most 64"
                ),
            ],
            id="too many labels",
        ),
        pytest.param(
            "max_series: 0",
            [
                ':13: programs[0].max_series: expected at least 1, got "0"',
            ],
            id="no series",
        ),
        pytest.param(
            "max_series: 100001",
            [
                ':13: programs[0].max_series: expected at most 100000, got "100001"',
            ],
            id="more series than a file can hold",
        ),
        pytest.param(
            "max_series: many",
            [
                ':13: programs[0].max_series: expected a whole number, got "many"',
            ],
            id="series that are no number",
        ),
        pytest.param(
            "max_targets: 0",
            [
                ':13: programs[0].max_targets: expected at least 1, got "0"',
            ],
            id="no targets",
        ),
        pytest.param(
            "max_targets: 1e6",
            [
                ':13: programs[0].max_targets: expected at most 100000, got "1e6"',
            ],
            id="more targets than can be",
        ),
        pytest.param(
            "allow_go_uretprobes: perhaps",
            [
                ':13: programs[0].allow_go_uretprobes: expected true or false, got "perhaps"',
            ],
            id="leave that is no truth value",
        ),
    ],
)
def test_a_broken_target_label_or_bound_is_named_with_line_and_key_path(
    problems_of: Callable[[str], list[str]], counter_yaml: str, keys: str, expected: list[str]
) -> None:
    assert problems_of(counter_yaml.replace("    usdt:\n", f"    {keys}\n    usdt:\n")) == expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param(
            "cmdline: 'gen(?P<gen>\\d)'",
            [
                (
                    ':9: programs[0].metrics.counters[0].labels[0].name: "gen" is taken: every series has the target '
                    "label of this name"
                ),
            ],
            id="group of a metric's label",
        ),
        pytest.param(
            "any: [{exe: /a}, {cmdline: [x, 'gen(?P<gen>\\d)']}]",
            [
                (
                    ':9: programs[0].metrics.counters[0].labels[0].name: "gen" is taken: every series has the target '
                    "label of this name"
                ),
            ],
            id="group under any of a metric's label",
        ),
        pytest.param(
            "cmdline: '(?P<pid>\\d+)'",
            [
                (
                    ':16: programs[0].attachment.cmdline: the named group "pid" becomes a label, but target_labels '
                    "has one of this name; expected another name, or {cmdline.pid} there"
                ),
            ],
            id="group that is a target label",
        ),
        pytest.param(
            "cmdline: '(?P<rôle>\\w+)'",
            [
                (
                    ":16: programs[0].attachment.cmdline: a named group becomes a label: expected a label's name of "
                    'letters, digits and _ that starts with no digit, got "rôle"'
                ),
            ],
            id="group that is no label's name",
        ),
        pytest.param(
            "cmdline: '(?P<__role>\\w+)'",
            [
                (
                    ':16: programs[0].attachment.cmdline: a named group becomes a label: "__role" starts with __, '
                    "which Prometheus keeps for itself"
                ),
            ],
            id="group that Prometheus keeps",
        ),
    ],
)
def test_a_named_group_that_cannot_be_a_label_is_named_with_line_and_key_path(
    problems_of: Callable[[str], list[str]], counter_yaml: str, selector: str, expected: list[str]
) -> None:
    assert problems_of(counter_yaml.replace("binary_name: gunicorn", selector)) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param(
            "    attachment: {cmdline: '--role=(?P<role>\\w+)'}\n    target_labels: {role: '{cmdline.rule}'}\n",
            [
                (
                    ':16: programs[0].target_labels.role: no pattern of attachment.cmdline has a group "rule"; did '
                    'you mean "role"?'
                ),
            ],
            id="misspelt group",
        ),
        pytest.param(
            "    attachment: {parent: {cmdline: '(?P<role>x)'}}\n    target_labels: {role: '{cmdline.role}'}\n",
            [
                ':16: programs[0].target_labels.role: no pattern of attachment.cmdline has a group "role"',
            ],
            id="group of a parent's pattern",
        ),
        pytest.param(
            "    attachment: {cmdline: '(?P<role>x'}\n    target_labels: {role: '{cmdline.role}'}\n",
            [
                ':15: programs[0].attachment.cmdline: no regular expression (RE2): "missing ): (?P<role>x"',
            ],
            id="group of a broken pattern",
        ),
        pytest.param(
            "    attachment: {cmdline: '(?P<role>x)'}\n    target_labels: {role: '{cmdline.role', gen: x}\n",
            [
                (
                    ':9: programs[0].metrics.counters[0].labels[0].name: "gen" is taken: every series has the target '
                    "label of this name"
                ),
                (
                    ":16: programs[0].target_labels.role: expected fields in pairs of braces, a brace itself twice, "
                    'got "{cmdline.role"'
                ),
            ],
            id="group of a broken template",
        ),
    ],
)
def test_a_group_is_told_once_whatever_is_wrong_with_it(
    problems_of: Callable[[str], list[str]], counter_yaml: str, keys: str, expected: list[str]
) -> None:
    attachment = "    attachment:\n      binary_name: gunicorn\n"

    assert problems_of(counter_yaml.replace(attachment, keys)) == expected
