"""Templates, and which labels a program's targets get."""

from collections.abc import Callable

import pytest

from ebpf_userspace_exporter.config.load import Loaded
from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.target_labels import Template, is_aggregated, parse_template, target_labels


@pytest.fixture
def program(load: Callable[[str], Loaded], counter_yaml: str) -> Callable[[str], Program]:
    """Return the counter's program with the attachment and the keys that follow it, in one line each."""
    attachment = "    attachment:\n      binary_name: gunicorn\n"

    def program(text: str) -> Program:
        keys = "".join(f"    {line}\n" for line in text.split("\n"))
        return load(counter_yaml.replace(attachment, keys)).config.programs[0]

    return program


def test_a_template_is_texts_and_fields() -> None:
    template = parse_template("{exe_base}-{{{cmdline.role}}}@{environ.APP.X}")

    assert template == Template(("", "-{", "}@", ""), ("exe_base", "cmdline.role", "environ.APP.X"))
    assert template.render({"exe_base": "python3", "environ.APP.X": "shop"}) == "python3-{}@shop"


def test_targets_are_told_apart_by_pid_unless_told_otherwise(program: Callable[[str], Program]) -> None:
    plain = program("attachment: {exe: /a}")

    assert target_labels(plain) == {"pid": parse_template("{pid}")}
    assert not is_aggregated(plain)


def test_no_target_labels_mean_that_all_targets_are_summed(program: Callable[[str], Program]) -> None:
    summed = program("attachment: {exe: /a}\ntarget_labels: {}")

    assert target_labels(summed) == {}
    assert is_aggregated(summed)


def test_a_named_group_becomes_a_label_unless_a_template_uses_it(program: Callable[[str], Program]) -> None:
    attachment = "attachment: {any: [{cmdline: '(?P<role>a)(?P<shard>b)'}, {cmdline: '(?P<role>c)'}], not: {exe: /b}}"

    assert target_labels(program(attachment)) == {
        "role": parse_template("{cmdline.role}"),
        "shard": parse_template("{cmdline.shard}"),
        "pid": parse_template("{pid}"),
    }
    assert target_labels(program(attachment + "\ntarget_labels: {as: 'r-{cmdline.role}'}")) == {
        "shard": parse_template("{cmdline.shard}"),
        "as": parse_template("r-{cmdline.role}"),
    }


def test_a_group_of_a_parent_or_of_what_must_not_match_is_no_label(program: Callable[[str], Program]) -> None:
    selected = program("attachment: {parent: {cmdline: '(?P<a>x)'}, not: {cmdline: '(?P<b>x)'}}")

    assert list(target_labels(selected)) == ["pid"]


def test_a_metric_may_have_a_label_pid_where_targets_have_none(
    load: Callable[[str], Loaded], counter_yaml: str
) -> None:
    text = counter_yaml.replace("name: gen", "name: pid").replace("    usdt:", "    target_labels: {}\n    usdt:")

    assert load(text).warnings == ()


def test_the_bucket_of_a_histogram_may_have_the_name_of_a_target_label(
    load: Callable[[str], Loaded], histogram_yaml: str
) -> None:
    assert load(histogram_yaml.replace("name: bucket", "name: pid")).warnings == ()
