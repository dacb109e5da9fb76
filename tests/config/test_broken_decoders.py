"""Decoders with one thing wrong, with the whole message of each."""

from collections.abc import Callable

import pytest

from ebpf_userspace_exporter.config.decoders import DECODER_SIZES, KERNEL_ONLY

NAME = ":12: programs[0].metrics.counters[0].labels[0].decoders[0].name"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "                - name: uint\n",
            ("                - name: uint\n                  stack_table: stacks\n"),
            [
                (
                    ":13: programs[0].metrics.counters[0].labels[0].decoders[0].stack_table: is for the decoder "
                    "ustack, not for uint"
                ),
            ],
            id="stack_table of another decoder",
        ),
        pytest.param(
            ("              size: 8\n              decoders:\n                - name: uint\n"),
            ("              size: 4\n              decoders:\n                - name: ustack\n"),
            [
                (
                    ":12: programs[0].metrics.counters[0].labels[0].decoders[0].stack_table: missing; expected the "
                    "name of a BPF_STACK_TRACE in the code"
                ),
            ],
            id="ustack without a stack_table",
        ),
        pytest.param(
            ("              size: 8\n              decoders:\n                - name: uint\n"),
            (
                "              size: 4\n"
                "              decoders:\n"
                "                - name: ustack\n"
                "                  stack_table: my stacks\n"
            ),
            [
                (
                    ":13: programs[0].metrics.counters[0].labels[0].decoders[0].stack_table: expected the name of a "
                    'BPF_STACK_TRACE in the code, got "my stacks"'
                ),
            ],
            id="stack_table that is no name",
        ),
        pytest.param(
            ("              size: 8\n              decoders:\n                - name: uint\n"),
            (
                "              size: 4\n"
                "              decoders:\n"
                "                - name: ustack\n"
                "                  stack_table: [stacks]\n"
            ),
            [
                ":13: programs[0].metrics.counters[0].labels[0].decoders[0].stack_table: expected text, got a list",
            ],
            id="stack_table that is a list",
        ),
        pytest.param(
            ("              size: 8\n              decoders:\n                - name: uint\n"),
            (
                "              size: 2\n"
                "              decoders:\n"
                "                - name: ustack\n"
                "                  stack_table: stacks\n"
            ),
            [
                ":10: programs[0].metrics.counters[0].labels[0].size: ustack cannot decode 2 bytes; expected 4 or 8",
            ],
            id="ustack of 2 bytes",
        ),
        pytest.param(
            "                - name: uint\n",
            ("                - name: uint\n                - name: usym\n"),
            [
                (
                    ":13: programs[0].metrics.counters[0].labels[0].decoders[1].name: usym reads the key's bytes: "
                    "expected it first, not after uint"
                ),
            ],
            id="usym after another decoder",
        ),
        pytest.param(
            "                - name: uint\n",
            ("                - name: uint\n                - {name: static_map, static_map: [a]}\n"),
            [
                (
                    ":13: programs[0].metrics.counters[0].labels[0].decoders[1].static_map: expected a mapping, got "
                    "a list"
                ),
            ],
            id="static_map that is a list",
        ),
        pytest.param(
            "                - name: uint\n",
            ("                - name: uint\n                - {name: regexp, regexps: a}\n"),
            [
                ':13: programs[0].metrics.counters[0].labels[0].decoders[1].regexps: expected a list, got "a"',
            ],
            id="regexps that are a text",
        ),
        pytest.param(
            ("size: 8\n              decoders:\n                - name: uint"),
            ("size: 4\n              decoders:\n                - name: usym"),
            [
                ":10: programs[0].metrics.counters[0].labels[0].size: usym cannot decode 4 bytes; expected 8",
            ],
            id="decoder of one size",
        ),
        pytest.param(
            "                - name: uint\n",
            "                - uint\n",
            [
                ':12: programs[0].metrics.counters[0].labels[0].decoders[0]: expected a mapping, got "uint"',
            ],
            id="decoder that is a text",
        ),
    ],
)
def test_a_broken_decoder_is_named_with_line_and_key_path(
    problems_of: Callable[[str], list[str]], counter_yaml: str, old: str, new: str, expected: list[str]
) -> None:
    assert counter_yaml.count(old) == 1
    assert problems_of(counter_yaml.replace(old, new)) == expected


@pytest.mark.parametrize("name", ["ksym", "kstack", "pci_vendor", "pci_device", "pci_class", "pci_subclass"])
def test_a_decoder_of_the_kernel_is_refused_with_the_reason(
    problems_of: Callable[[str], list[str]], counter_yaml: str, name: str
) -> None:
    text = counter_yaml.replace("- name: uint", f"- name: {name}")

    assert problems_of(text) == [f'{NAME}: no decoder "{name}": it {KERNEL_ONLY[name]}']
    assert name not in DECODER_SIZES


def test_where_no_decoder_looks_alike_all_are_named(problems_of: Callable[[str], list[str]], counter_yaml: str) -> None:
    text = counter_yaml.replace("- name: uint", "- name: xyzzy")

    assert problems_of(text) == [f'{NAME}: no decoder "xyzzy"; expected one of {", ".join(DECODER_SIZES)}']
