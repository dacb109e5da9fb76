"""The demo as a user runs it, after setup."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bpf

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^ *(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) *$", re.MULTILINE)


@pytest.fixture(scope="module")
def output() -> str:
    done = subprocess.run(
        [sys.executable, "-I", ROOT / "scripts/demo.py", "--once"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo_shows_four_workers_counted_as_they_count_themselves(output: str) -> None:
    rows = [tuple(map(int, row)) for row in ROW.findall(output)]

    assert len(rows) == 4
    assert all(row[1:4] == row[4:7] for row in rows)
    assert any(row[1] > 0 for row in rows)
    assert "userspace_exporter_gc_total{gen=" in output


def test_demo_leaves_no_process_and_no_folder(output: str) -> None:
    (state_dir,) = re.findall(r"--state-dir (\S+)/state", output)
    running = [
        pid
        for pid in Path("/proc").glob("[0-9]*")
        if any(state_dir.encode() in part for part in command_line(pid).split(b"\0"))
    ]

    assert running == []
    assert not Path(state_dir).exists()


def command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
