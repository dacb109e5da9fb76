"""Labels made from what is known of real processes."""

import os
import time
from collections.abc import Mapping

import pytest

from ebpf_userspace_exporter.config.target_labels import parse_template
from ebpf_userspace_exporter.supervisor.processes import process_table
from ebpf_userspace_exporter.supervisor.selection.labels import MAX_VALUE_CHARACTERS, render
from ebpf_userspace_exporter.supervisor.selection.observation import Observation
from tests.product.programs import PYTHON
from tests.supervisor.selection.living import living


def rendered(pid: int, templates: Mapping[str, str], groups: Mapping[str, str] | None = None) -> dict[str, str]:
    table = process_table()
    parsed = {name: parse_template(text) for name, text in templates.items()}
    return dict(render(parsed, Observation(table, time.monotonic()).facts(table[pid]), groups or {}))


def test_every_field_has_its_value() -> None:
    fields = ("pid", "ppid", "comm", "exe", "exe_base", "user", "uid", "systemd_unit", "container_id", "environ.APP")
    with living(environ={"APP": "shop"}) as process:
        found = rendered(process.pid, {field: f"{{{field}}}" for field in (*fields, "cgroup")})

    assert found.pop("cgroup").startswith("/")
    assert found == {
        "pid": str(process.pid),
        "ppid": str(os.getpid()),
        "comm": "specimen",
        "exe": PYTHON,
        "exe_base": PYTHON.rpartition("/")[2],
        "user": "root",
        "uid": "0",
        "systemd_unit": found["systemd_unit"],
        "container_id": found["container_id"],
        "environ.APP": "shop",
    }


def test_order_is_that_of_the_templates() -> None:
    table = process_table()
    templates = {
        name: parse_template(text) for name, text in (("z", "{pid}"), ("a", "x"), ("m", "{cmdline.role}-{uid}"))
    }
    labels = render(templates, Observation(table, time.monotonic()).facts(table[os.getpid()]), {"role": "web"})

    assert labels == (("z", str(os.getpid())), ("a", "x"), ("m", f"web-{os.geteuid()}"))


def test_what_there_is_not_is_empty() -> None:
    with living() as process:
        templates = {"a": "{environ.NONE}", "b": "<{cmdline.none}>"}
        assert rendered(process.pid, templates) == {"a": "", "b": "<>"}
        table = process_table()
    gone = Observation(table, time.monotonic()).facts(table[process.pid])

    assert render({"a": parse_template("{exe}"), "b": parse_template("{user}")}, gone, {}) == (("a", ""), ("b", ""))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(b"caf\xc3\xa9", "café", id="UTF-8"),
        pytest.param(b"\xff\x80", r"\xff\x80", id="no UTF-8"),
        pytest.param(b"a\nb\x1b[0m", r"a\x0ab\x1b[0m", id="controls"),
        pytest.param(b"x" * 100_000, "x" * MAX_VALUE_CHARACTERS, id="long"),
        pytest.param(b"\xed\xb3\xbf", r"\xed\xb3\xbf", id="a surrogate"),
    ],
)
def test_values_are_short_and_valid_text_whatever_the_process_says(value: bytes, expected: str) -> None:
    with living(environ={"VALUE": os.fsdecode(value)}) as process:
        found = rendered(process.pid, {"label": "{environ.VALUE}"})

    assert found == {"label": expected}
    assert found["label"].encode()


def test_name_that_is_no_text_becomes_text() -> None:
    with living() as process:
        process.do(r"open('/proc/self/comm', 'wb').write(b'\xffa\nb')")

        assert rendered(process.pid, {"label": "{comm}"}) == {"label": r"\xffa\x0ab"}
