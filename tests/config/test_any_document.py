"""Whatever a file holds, it is a config or is refused in lines; nothing else comes out of the loader."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpf_userspace_exporter.config.errors import ConfigError
from ebpf_userspace_exporter.config.load import Loaded, load_config
from ebpf_userspace_exporter.config.nodes import parse

# Nothing is kept between runs; where it matters who failed, the same documents are tried each time.
BOUNDED = settings(
    deadline=None,
    max_examples=200,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

GOOD = """\
exclude: {exe: [/usr/bin/gdb, '*/strace']}
programs:
  - name: shop
    metrics:
      counters:
        - name: calls_total
          help: Calls
          table: calls
          value_type: u64
          value_multiplier: 1e-9
          value_offset: 8
          labels:
            - {name: kind, size: 4, padding: 4, decoders: [{name: uint}, {name: static_map, static_map: {0: a}}]}
            - {name: path, size: 8, decoders: [{name: string}, {name: regexp, regexps: ['^(a+)$']}]}
            - name: cpu
      gauges:
        - {name: heap, table: heaps, combine: max}
      histograms:
        - name: seconds
          table: seconds
          bucket_type: exp2
          bucket_max: 31
          labels: [{name: bucket, size: 8, decoders: [{name: uint}]}]
    usdt: {shop:call: on_call}
    attachment:
      cmdline: ['--role=(?P<role>\\w+)', x]
      uid: [0, 33]
      environ: {APP: '^shop$'}
      listens_on: [80, 6000-6010]
      parent: {uid: 0}
      any: [{exe: /a}, {min_age: 1m30s}]
      not: {binary_name: gdb}
    target_labels: {pid: '{pid}', as: '{cmdline.role}'}
    max_series: 100
    cflags: [-O2]
    code: int on_call(void *ctx) { return 0; }
  - name: second
    metrics:
      gauges: [{name: second_heap, table: t}]
      histograms:
        - name: h
          table: t
          bucket_type: fixed
          bucket_keys: [1, 2]
          labels: [{name: b, size: 8, decoders: [{name: uint}]}]
    uprobes: {malloc: f}
    uretprobes: {/lib/libc.so.6:malloc: f}
    attachments: {binary_name: python3}
    code: x
"""
SCALARS = [
    *(None, "", " ", "x", "0", "1", "-1", "8", "65536", "1e999", "1_0", "0x8", ".inf", "yes", "~", "=", "<<", "*", "["),
    *(
        "{",
        "}",
        "{{",
        "{pid}",
        "{cmdline.role}",
        "{cmdline.a}",
        "(?P<a>x)",
        "(?P<pid>x)",
        "(",
        "(?P<é>x)",
        "\\pL{1000}",
    ),
    *("pid", "le", "cpu", "__x", "uint", "ustack", "ksym", "fixed", "s8", "max", "seconds_count", "map_entries", "/a"),
    *("a\nb", "\0", "\x85", "\u2028", "\ud800", "\U0001f600", "\\", '"', "#", "x" * 300, "9" * 300, "2021-01-01"),
]
KEYS = [
    *(
        "name",
        "size",
        "labels",
        "any",
        "not",
        "exe",
        "uid",
        "gauges",
        "combine",
        "attachment",
        "attachments",
        "exclude",
    ),
    *(
        "target_labels",
        "programs",
        "metrics",
        "kprobes",
        "le",
        "",
        "a\nb",
        "\ud800",
        "<<",
        "nmae",
        "stack_table",
        "help",
    ),
]
VALUES = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)
MUTATIONS = ("drop", "replace", "list", "mapping", "rename", "move", "repeat")


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield everything in a document as what holds it and its key or index."""
    for key in range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ():
        yield value, key
        yield from places(value[key])


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """A good config with some things dropped, replaced, retyped, renamed, repeated or put where others were."""
    document = yaml.load(GOOD, yaml.BaseLoader)  # noqa: S506 - it makes nothing but texts
    for mutation in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=4)):
        if not document:
            break
        holder, key = draw(st.sampled_from(list(places(document))))
        match mutation:
            case "drop":
                del holder[key]
            case "replace":
                holder[key] = draw(VALUES)
            case "list":
                holder[key] = [holder[key]]
            case "mapping":
                holder[key] = {draw(st.sampled_from(KEYS)): holder[key]}
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(KEYS))] = holder.pop(key)
            case "repeat" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case _:
                other, its_key = draw(st.sampled_from(list(places(document))))
                holder[key] = copy.deepcopy(other[its_key])
    return document


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """The text of a good config with pieces of it cut out, doubled, or replaced by YAML's own characters."""
    text = GOOD
    for _ in range(draw(st.integers(min_value=1, max_value=3))):
        start = draw(st.integers(min_value=0, max_value=len(text)))
        end = start + draw(st.integers(min_value=0, max_value=40))
        text = (
            text[:start]
            + draw(st.sampled_from(["", text[start:end] * 2, *"{}[]&*!|>%@`'\"\\#:-?,\t\n\r ~=<"]))
            + text[end:]
        )
    return text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "programs.yaml"


def digests(loaded: Loaded) -> list[str]:
    return [program.digest() for program in loaded.config.programs]


def attempt(file: Path) -> tuple[Loaded | None, ConfigError | None]:
    try:
        return load_config(file, trusted=False), None
    except ConfigError as refusal:
        return None, refusal


def is_taken(file: Path) -> bool:
    """Load the file and return whether it was taken; AssertionError where it neither means one thing nor is refused."""
    loaded, refusal = attempt(file)
    if loaded is None:
        assert refusal is not None
        lines = str(refusal).split("\n")
        assert len(lines) == len(refusal.problems) > 0
        assert all(line.isprintable() and line.startswith(f"{file}:") for line in lines)
        return False
    assert digests(loaded)
    assert all(line.isprintable() for line in loaded.warnings)
    again = file.with_name("again.yaml")
    again.write_text(yaml.safe_dump(parse(str(file), file.read_text()).value, sort_keys=False))
    for same in (file, again):
        assert digests(load_config(same, trusted=False)) == digests(loaded)
    return True


def test_the_document_that_is_damaged_here_is_a_config(file: Path) -> None:
    file.write_text(GOOD)

    assert is_taken(file)


@BOUNDED
@given(document=documents(), is_flow=st.booleans())
def test_a_config_with_things_changed_is_taken_or_refused(file: Path, document: Any, is_flow: bool) -> None:
    file.write_text(yaml.safe_dump(document, default_flow_style=is_flow))

    is_taken(file)


@BOUNDED
@given(text=damaged())
def test_a_config_with_damaged_text_is_taken_or_refused(file: Path, text: str) -> None:
    file.write_text(text)

    is_taken(file)


@BOUNDED
@given(content=st.binary(max_size=200))
def test_bytes_are_taken_or_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)

    is_taken(file)
