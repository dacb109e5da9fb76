"""A process that comes to match later is noticed: at once after an exec, within the rescan interval otherwise."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.product.commanded import PROGRAM, launched
from tests.product.exporter import comm, exporter, free_port, until
from tests.product.lifecycle import series_of, wait_detached
from tests.product.programs import PYTHON
from tests.product.selecting import config, counted, gc_program, specimen, targets

pytestmark = pytest.mark.bpf

NAME = f"late{os.getpid()}"
RESCAN = ("--rescan-interval", "1s")


def late(**selector: Any) -> str:
    """Return a config for those of our specimens that come to match the selector."""
    return config(gc_program({"binary_name": NAME, **selector}))


def test_what_a_wrapper_script_executes_after_three_seconds_is_noticed_at_once(tmp_path: Path) -> None:
    wrapper = tmp_path / Path(PYTHON).name  # not even the comm changes
    wrapper.write_text('#!/bin/sh\nsleep 3\nexec "$@"\n')
    wrapper.chmod(0o755)
    command = ["env", f"{NAME}=1", str(wrapper)]
    # Nothing is read again for an hour: only the exec itself can have been noticed.
    with (
        exporter(config(gc_program({"exe": PYTHON, "environ": {NAME: "1"}})), "--rescan-interval", "1h") as running,
        launched([*command, PYTHON, str(PROGRAM)]) as wrapped,
        launched([*command, "sleep", "1000"]) as other,
    ):
        until(lambda: {comm(each.pid) for each in (wrapped, other)} == {wrapper.name}, "the scripts run")
        assert targets(running) == 0
        before = wrapped.settle()
        executed = time.monotonic()
        running.wait_attached("gc_total", wrapped.pid)
        assert time.monotonic() - executed < 10
        until(lambda: comm(other.pid) == "sleep", "the other one has executed too")

        assert wrapped.do("collect", 7) - before == counted(running, wrapped.pid) == 7
        assert series_of(running, other.pid) == []
        assert targets(running) == 1


def test_a_library_that_is_loaded_late_makes_a_target() -> None:
    with (
        specimen(name=NAME) as loading,
        specimen(name=NAME) as other,
        exporter(late(library="*/libbz2.so*"), *RESCAN) as running,
    ):
        other.do("import lzma")
        assert targets(running) == 0
        loading.do("import bz2")
        running.wait_attached("gc_total", loading.pid)
        loading.collect(7)

        assert counted(running, loading.pid) == 7
        assert series_of(running, other.pid) == []
        assert targets(running) == 1


def test_a_port_that_is_listened_on_late_makes_a_target() -> None:
    port, other_port = free_port(), free_port()
    with (
        specimen(name=NAME) as listening,
        specimen(name=NAME) as other,
        exporter(late(listens_on=[f"{port}-{port}", "1"]), *RESCAN) as running,
    ):
        other.do(f"import socket; listener = socket.create_server(('127.0.0.1', {other_port}))")
        other.do(f"client = socket.socket(); client.connect(('127.0.0.1', {other_port}))")
        assert targets(running) == 0
        listening.do(f"import socket; listener = socket.create_server(('127.0.0.1', {port}))")
        running.wait_attached("gc_total", listening.pid)
        listening.collect(7)

        assert counted(running, listening.pid) == 7
        assert series_of(running, other.pid) == []
        assert targets(running) == 1


def test_a_title_makes_a_target_and_another_title_ends_it() -> None:
    with (
        specimen(name=NAME) as renamed,
        specimen(name=NAME) as other,
        exporter(late(cmdline="^shop: working"), *RESCAN) as running,
    ):
        other.set_title("shop: idle")
        assert targets(running) == 0
        renamed.set_title("shop: working on 17")
        running.wait_attached("gc_total", renamed.pid)
        renamed.collect(7)
        assert counted(running, renamed.pid) == 7

        renamed.set_title("shop: idle")
        wait_detached(running, renamed.pid)
        renamed.collect(5)

        assert counted(running, renamed.pid) == 7  # shown on through its grace
        assert series_of(running, other.pid) == []
        assert f"pid={other.pid} " not in running.log


def test_a_process_is_a_target_when_it_is_old_enough() -> None:
    programs = [
        gc_program({"binary_name": NAME, "min_age": age}, name) for age, name in (("3s", "aged"), ("1h", "old"))
    ]
    with exporter(config(*programs), "--rescan-interval", "1h") as running:
        begun = time.monotonic()
        with specimen(name=NAME) as growing:
            running.wait_attached("aged", growing.pid)
            assert time.monotonic() - begun >= 3
            growing.collect(7)

            assert counted(running, growing.pid, "aged") == 7
            assert (targets(running, "aged"), targets(running, "old")) == (1, 0)
