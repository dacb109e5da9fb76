"""`status` shows what the running exporter says, and says in one line why none does."""

import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.product.exporter import exporter, until
from tests.product.programs import python_target
from tests.supervisor.commands.command import command

CONFIG = """
programs:
  - name: gc
    metrics: {counters: [{name: gc_total, table: seen}]}
    usdt: {gc__start: on_gc}
    attachment: {binary_name: told-of}
    code: |
      BPF_HASH(seen);
      int on_gc(void *ctx) { seen.increment(0); return 0; }
  - name: broken
    usdt: {gc__start: on_gc}
    attachment: {binary_name: told-of}
    code: int on_gc(void *ctx) { return missing; }
"""


@pytest.mark.bpf
def test_targets_and_their_states_are_those_of_the_running_exporter() -> None:
    with python_target("told-of") as target, exporter(CONFIG) as running:
        running.wait_attached("gc", target.pid)

        def document() -> dict[str, Any] | None:
            answer = command("status", "--state-dir", running.state_dir, "--json")
            assert answer.returncode == 0, answer
            found: dict[str, Any] = json.loads(answer.stdout)
            states = {row["program"]: row["state"] for row in found["targets"]}
            return found if states == {"gc": "running", "broken": "failed"} else None

        status = until(document, "one runs and one has failed", pause=0.2)
        table = command("status", USERSPACE_EXPORTER_STATE_DIR=str(running.state_dir)).stdout

    targets = {row["program"]: row for row in status["targets"]}
    assert {row["pid"] for row in targets.values()} == {target.pid}
    assert targets["gc"]["labels"] == {"pid": str(target.pid)}
    assert 0 < targets["gc"]["attach_seconds"] < 120
    assert targets["broken"]["reason"] == "compile"
    assert status["ready"] is True
    assert status["last_reload"]["successful"] is True
    rows = [line.split() for line in table.splitlines()]
    assert ["gc", "1", "running"] in rows
    assert ["broken", "1", "failed"] in rows
    assert any(row[:3] == ["gc", str(target.pid), "running"] for row in rows)


@pytest.mark.parametrize("kind", ["nothing", "file", "dead"])
def test_where_no_exporter_answers_it_is_said_in_one_line(kind: str, tmp_path: Path) -> None:
    if kind == "file":
        (tmp_path / "control.sock").write_text("")
    if kind == "dead":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "control.sock"))

    done = command("status", "--state-dir", tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"no exporter answers at {tmp_path}/control.sock: ")
    assert len(done.stderr.splitlines()) == 1


def answered(answer: bytes, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command against something that gives this answer."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "control.sock"))
        server.listen()
        server.settimeout(60)

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(64)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        done = command("status", "--state-dir", folder)
        thread.join()
    return done


def failing(program: str, pid: int, error: str) -> dict[str, object]:
    return {"program": program, "pid": pid, "state": "failed", "reason": "compile", "error": error}


def test_an_error_of_many_targets_is_shown_once_with_their_pids(tmp_path: Path) -> None:
    words = "clang does not compile the code\ncode:1:43: error: use of undeclared\n    int on_gc\n        ^"
    document = {
        "ready": True,
        "version": "1",
        "started": 0,
        "last_reload": {"at": 0, "successful": True, "error": ""},
        "programs": [],
        "targets": [
            *(failing("many", pid, "the same") for pid in range(1, 24)),
            failing("gc", 4, words),
            failing("gc", 5, "process 5: other"),
            failing("gc", 6, words),
            {**failing("gc", 7, ""), "state": "running"},
        ],
    }

    done = answered(json.dumps(document).encode() + b"\n", tmp_path)

    listed = ", ".join(map(str, range(1, 21)))
    assert done.stdout.partition("\n\nmany, ")[2] == (
        f"processes {listed} and 3 more:\n  the same\n"
        "\ngc, processes 4, 6:\n  clang does not compile the code\n"
        "  code:1:43: error: use of undeclared\n      int on_gc\n          ^\n"
        "\ngc, process 5:\n  process 5: other\n"
    )


@pytest.mark.parametrize(
    ("answer", "saying"),
    [
        (b"", "hung up without an answer"),
        (b'{"ready": true}\n', "no exporter of this version"),
        (b"error\n", "no exporter of this version"),
        (b"\xff\n", "no exporter of this version"),
    ],
)
def test_an_answer_that_is_none_is_said_in_one_line(answer: bytes, saying: str, tmp_path: Path) -> None:
    done = answered(answer, tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert saying in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_may_not_ask_is_told(tmp_path: Path) -> None:
    done = command("status", "--state-dir", tmp_path, nobody=True)

    assert (done.returncode, done.stdout) == (1, "")
    assert "permission denied; needs root" in done.stderr


def test_a_state_directory_whose_path_is_too_long_for_a_socket_is_one_line(tmp_path: Path) -> None:
    done = command("status", "--state-dir", tmp_path / ("x" * 120))

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
