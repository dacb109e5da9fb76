"""The JSON Schema takes what the loader takes, and finds what an editor is to find."""

import copy
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ebpf_userspace_exporter.config.decoders import DECODER_SIZES
from ebpf_userspace_exporter.config.json_schema import DIALECT, config_schema
from ebpf_userspace_exporter.config.load import Loaded
from tests.config.schema_walk import differences

ROOT = Path(__file__).parents[2]
SCHEMA = config_schema()
EVERYTHING = """\
exclude: {exe: /usr/bin/gdb}
programs:
  - name: shop
    metrics:
      counters:
        - name: calls_total
          help: Calls
          table: calls
          value_type: u64
          value_multiplier: 1e-9
          value_offset: 0x8
          labels:
            - name: kind
              size: '4'
              padding: 4
              decoders:
                - name: uint
                - {name: static_map, static_map: {0: a, 1: 2}, allow_unknown: yes}
                - {name: regexp, regexps: ['^(a+)$', 1]}
            - {name: stack, size: 8, decoders: [{name: ustack, stack_table: stacks}]}
            - name: cpu
      gauges:
        - {name: heap, table: heaps, combine: max, value_multiplier: -1}
      histograms:
        - name: seconds
          table: seconds
          bucket_type: fixed
          bucket_multiplier: 0.001
          bucket_keys: [1, 2.5, '5']
          labels: [{name: bucket, size: 8, decoders: [{name: uint}]}]
        - name: bytes
          table: bytes
          bucket_type: linear
          bucket_min: -1
          bucket_max: 10
          labels: [{name: bucket, size: 8, decoders: [{name: uint}]}]
    usdt: {shop:call: on_call}
    uprobes: {malloc: on_call}
    uretprobes: {malloc: on_call}
    attachment:
      binary_name: gunicorn
      exe: [/opt/*]
      cmdline: ['--role=(?P<role>x)', 1]
      argv0: gunicorn
      user: www-data
      uid: [0, '0x21']
      cwd: /srv
      environ: {APP: '^shop$', DEBUG: 1}
      cgroup: '*'
      systemd_unit: shop.service
      container_id: 4f2a
      library: '*/libc.so.6'
      listens_on: [80, '443', 6000-6010]
      parent: {uid: 0}
      ancestor: {binary_name: cron}
      min_age: 2.5
      any: [{exe: /a}, {min_age: 1m30s}]
      not: {exe: /b}
    target_labels: {pid: '{pid}', app: shop, version: 2}
    max_series: 100
    max_targets: 1_0
    allow_go_uretprobes: true
    cflags: [-O2]
    code: int on_call(void *ctx) { return 0; }
"""


def written(text: str) -> Any:
    """Return a file as an editor sees it: a key is a text to JSON."""

    def keyed(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): keyed(item) for key, item in value.items()}
        return [keyed(item) for item in value] if isinstance(value, list) else value

    return keyed(yaml.safe_load(text))


def shipped() -> Iterator[Any]:
    for path in sorted((ROOT / "examples").glob("*/config.yaml")):
        yield pytest.param(path.read_text(), id=path.parent.name)
    blocks = re.findall(
        r"^    (?:exclude|programs):\n(?:(?: {4}.*)?\n)+", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert blocks
    for number, block in enumerate(blocks, start=1):
        yield pytest.param(textwrap.dedent(block), id=f"README.md {number}")


@pytest.mark.parametrize("text", list(shipped()))
def test_every_config_that_we_show_fits_and_loads(load: Callable[[str], Loaded], text: str) -> None:
    assert list(differences(SCHEMA, written(text), SCHEMA)) == []
    assert load(text).config.programs


def test_a_config_with_every_key_fits_and_loads(load: Callable[[str], Loaded]) -> None:
    assert list(differences(SCHEMA, written(EVERYTHING), SCHEMA)) == []
    assert load(EVERYTHING).config.programs
    missing = {
        f"{name}.{key}"
        for name, model in SCHEMA["$defs"].items()
        for key in model.get("properties", {})
        if not re.search(rf"\b{key}: ", EVERYTHING) and not re.search(rf"\b{key}:\n", EVERYTHING)
    }
    assert missing == {
        "Program.attachments",
        *(f"Program.{kind}" for kind in SCHEMA["$defs"]["Program"]["properties"] if "ignored" in description(kind)),
    }


def description(key: str) -> str:
    return str(SCHEMA["$defs"]["Program"]["properties"][key]["description"])


def mappings(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each mapping whose keys are the schema's."""
    free = {"usdt", "uprobes", "uretprobes", "environ", "target_labels", "static_map"}
    if isinstance(value, dict) and not (path and path[-1] in free):
        yield path
        for key, item in value.items():
            yield from mappings(item, (*path, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from mappings(item, (*path, index))


@pytest.mark.parametrize("path", list(mappings(written(EVERYTHING))), ids=str)
def test_a_misspelt_key_does_not_fit_wherever_it_is(path: tuple[str | int, ...]) -> None:
    config = written(EVERYTHING)
    holder = config
    for part in path:
        holder = holder[part]
    holder["nmae"] = "x"

    assert list(differences(SCHEMA, config, SCHEMA)) != []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("name: uint", "name: unit", id="decoder that there is not"),
        pytest.param("bucket_type: linear", "bucket_type: log", id="bucket_type that there is not"),
        pytest.param("value_type: u64", "value_type: int", id="value_type that there is not"),
        pytest.param("combine: max", "combine: mean", id="combine that there is not"),
        pytest.param("size: '4'", "size: 0", id="size 0"),
        pytest.param("size: '4'", "size: four", id="size that is a word"),
        pytest.param("name: cpu", "name: core", id="label without a size"),
        pytest.param("listens_on: [80,", "listens_on: [65536,", id="port beyond 16 bits"),
        pytest.param("not: {exe: /b}", "not: {}", id="selector without a key"),
        pytest.param("exe: [/opt/*]", "exe: []", id="no glob"),
        pytest.param("max_series: 100", "max_series: 0", id="no series"),
        pytest.param("allow_go_uretprobes: true", "allow_go_uretprobes: perhaps", id="no truth value"),
        pytest.param("    code:", "    attachments: {exe: /a}\n    code:", id="attachment twice"),
        pytest.param("    code:", "    cod:", id="no code"),
        pytest.param("  - name: shop\n", "  - {}\n  - name: shop\n", id="empty program"),
    ],
)
def test_what_the_loader_refuses_for_its_shape_does_not_fit(
    problems_of: Callable[[str], list[str]], old: str, new: str
) -> None:
    assert EVERYTHING.count(old) in {1, 3}
    text = EVERYTHING.replace(old, new)

    assert problems_of(text) != []
    assert list(differences(SCHEMA, written(text), SCHEMA)) != []


def test_every_key_has_a_description() -> None:
    for name, model in SCHEMA["$defs"].items():
        for key, schema in model.get("properties", {}).items():
            assert schema.get("description"), f"{name}.{key}"
    assert all(schema["description"] for schema in SCHEMA["properties"].values())


def test_the_schema_is_plain_json_of_its_dialect_and_made_anew_each_time() -> None:
    assert SCHEMA["$schema"] == DIALECT
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$defs"]["Decoder"]["properties"]["name"]["enum"] == list(DECODER_SIZES)
    before = copy.deepcopy(SCHEMA)
    config_schema()["$defs"].clear()
    assert config_schema() == before
