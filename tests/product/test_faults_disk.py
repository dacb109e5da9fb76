"""A state directory without room costs what is new, and nothing that is there."""

import io
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.product.exporter import Exporter, start
from tests.product.faults import (
    descriptors_at_rest,
    fresh,
    processes_of,
    scraping,
    series_config,
    wait_for_worker,
    wait_until_gone,
)
from tests.product.programs import PythonTarget, python_target

pytestmark = pytest.mark.bpf

NAME = f"disk{os.getpid()}"  # of the targets: nobody else's exporter looks for it


@pytest.fixture
def target() -> Iterator[PythonTarget]:
    with python_target(NAME) as started:
        yield started


@pytest.fixture
def running(target: PythonTarget) -> Iterator[Exporter]:
    """Run an exporter with a small tmpfs as its state directory."""
    folder = Path(tempfile.mkdtemp(prefix="exporter-test-"))
    folder.chmod(0o755)
    state = folder / "state"
    state.mkdir(mode=0o750)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=750", "tmpfs", state], check=True)
    try:
        started = start(folder, series_config(binary_name=NAME))
        try:
            started.wait_ready()
            started.wait_attached("gc_total", target.pid)
            yield started
        finally:
            code = started.stop()
            wait_until_gone(processes_of(folder))
        assert code == 0
        assert [path.name for path in state.iterdir() if path.name != "filler"] == []
    finally:
        subprocess.run(["umount", state], check=True)
        shutil.rmtree(folder)


def fill(running: Exporter) -> Path:
    """Leave not a byte free in the state directory."""
    filler = running.state_dir / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with pytest.raises(OSError, match="No space left"):
                write_on(file, b"x" * size)
    return filler


def write_on(file: io.FileIO, content: bytes) -> NoReturn:
    while True:
        assert file.write(content)


def test_full_state_directory_costs_new_series_alone_until_there_is_room_again(
    running: Exporter, target: PythonTarget
) -> None:
    target.collect(10)
    fresh(running)
    worker = wait_for_worker(running, target.pid)
    before = descriptors_at_rest(running.process.pid), descriptors_at_rest(worker)

    with scraping(running, "gc_total") as scrapes:
        filler = fill(running)
        target.collect(2000)
        scrapes.wait_for(3)
        shown = running.total("gc_total")
        assert 10 <= shown < 2010
        assert "series are missing" in running.log

        filler.unlink()
        fresh(running)
        scrapes.wait_for(1)

    assert running.total("gc_total") == 2010
    assert running.total("dropped_series_total", reason="no_space") == 2010 - shown
    assert wait_for_worker(running, target.pid) == worker
    assert (descriptors_at_rest(running.process.pid), descriptors_at_rest(worker)) == before


def test_worker_killed_in_a_full_state_directory_shows_all_when_there_is_room_again(
    running: Exporter, target: PythonTarget
) -> None:
    target.collect(10)
    fresh(running)
    worker = wait_for_worker(running, target.pid)

    with scraping(running, "gc_total"):
        filler = fill(running)
        os.kill(worker, signal.SIGKILL)
        target.collect(5)
        wait_for_worker(running, target.pid, after=worker)
        assert running.total("gc_total") == 10  # what the one before has written
        filler.unlink()
        fresh(running)

    assert running.total("gc_total") == 15


def test_full_state_directory_is_told_in_the_log_once(running: Exporter, target: PythonTarget) -> None:
    filler = fill(running)
    target.collect(500)
    try:
        for _ in range(5):
            fresh(running)
        assert running.log.count("own metrics not written") == 1
        assert running.log.count("series are missing") == 1
    finally:
        filler.unlink()
