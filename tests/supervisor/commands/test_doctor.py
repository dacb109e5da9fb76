"""`doctor` tells whether probes can work here, whoever asks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.supervisor.commands.command import command

CHECKS = [
    "kernel",
    "kernel headers",
    "bcc",
    "capabilities",
    "open files",
    "UPROBE_MULTI",
    "perf uprobes",
    "kernel.perf_event_paranoid",
    "kernel.unprivileged_bpf_disabled",
    "seccomp",
    "lockdown",
    "PID namespace",
    "tracefs",
]


def findings(output: str) -> dict[str, dict[str, str]]:
    found = json.loads(output)
    assert [finding["check"] for finding in found] == CHECKS
    for finding in found:
        assert finding["judgment"] in ("good", "bad", "note")
        assert finding["seen"]
        assert bool(finding["fix"]) is (finding["judgment"] != "good")
    return {finding["check"]: finding for finding in found}


@pytest.mark.bpf
def test_where_probes_work_nothing_is_bad() -> None:
    done = command("doctor", "--json")

    found = findings(done.stdout)
    assert done.returncode == 0
    for check in ("kernel", "bcc", "capabilities"):
        assert found[check]["judgment"] == "good"
    assert "good" in (found["UPROBE_MULTI"]["judgment"], found["perf uprobes"]["judgment"])
    assert not any(finding["judgment"] == "bad" for finding in found.values())


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_nobody_is_told_what_is_missing_and_where_to_get_it() -> None:
    done = command("doctor", "--json", nobody=True)

    found = findings(done.stdout)
    assert done.returncode == 1
    assert found["capabilities"]["judgment"] == "bad"
    assert "run it as root" in found["capabilities"]["fix"]
    assert found["UPROBE_MULTI"]["judgment"] == found["perf uprobes"]["judgment"] == "bad"
    assert found["bcc"]["judgment"] == "good"


@pytest.mark.bpf
def test_a_pid_namespace_is_noted() -> None:
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "ebpf_userspace_exporter", "doctor"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    [line] = [line for line in done.stdout.splitlines() if line.startswith("PID namespace")]
    assert line.split()[2] == "note"
    assert "--pid=host" in line


@pytest.mark.parametrize(("most", "judgment", "targets"), [(1024, "note", "179"), (5128, "good", "1000")])
def test_few_open_files_are_noted(most: int, judgment: str, targets: str) -> None:
    script = f"ulimit -n {most} && exec {sys.executable} -m ebpf_userspace_exporter doctor --json"
    done = subprocess.run(["sh", "-c", script], cwd="/", capture_output=True, text=True, timeout=240, check=False)

    finding = findings(done.stdout)["open files"]
    assert finding["judgment"] == judgment
    assert f"some {targets} targets" in finding["seen"]


def test_headers_that_are_none_are_bad(tmp_path: Path) -> None:
    done = command("doctor", "--json", "--kernel-headers", tmp_path)

    assert done.returncode == 1
    finding = findings(done.stdout)["kernel headers"]
    assert finding["judgment"] == "bad"
    assert "no kernel headers for" in finding["fix"]


def test_another_bcc_than_the_real_one_is_bad(tmp_path: Path) -> None:
    (tmp_path / "bcc.py").write_text("lattice = 1\n")

    done = command("doctor", "--json", PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    finding = findings(done.stdout)["bcc"]
    assert finding["judgment"] == "bad"
    assert "cannot import name 'BPF'" in finding["seen"]
    assert "python3-bpfcc" in finding["fix"]
