import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf_userspace_exporter.web.refresh import Readiness, RefreshResult, readiness, refresh
from tests.web.conftest import StartSupervisor

FAILED = RefreshResult(fresh=0, stale=0, ok=False)


def answering(answer: bytes | None) -> Callable[[str], bytes | None]:
    return lambda _request: answer


def test_refresh_tells_how_many_workers_wrote(state_directory: Path, start_supervisor: StartSupervisor) -> None:
    supervisor = start_supervisor(answering(b"ok 12 1\n"))

    assert refresh(state_directory / "control.sock", 5.0) == RefreshResult(fresh=12, stale=1, ok=True)
    assert supervisor.requests == ["refresh 4.500\n"]


@pytest.mark.parametrize(
    "answer",
    [
        b"error no\n",
        b"ok 1\n",
        b"ok 1 2 3\n",
        b"ok -1 2\n",
        b"ok 1 2",
        b"",
        b"\n",
        b"ok " + b"1" * 100 + b" 2\n",
        b"x" * 100_000,
        b"ok 1 2\nok 3 4\n",
        b"\xff\n",
    ],
    ids=repr,
)
def test_other_answers_are_no_refresh(state_directory: Path, start_supervisor: StartSupervisor, answer: bytes) -> None:
    start_supervisor(answering(answer))

    assert refresh(state_directory / "control.sock", 5.0) == FAILED


def test_silence_ends_at_the_deadline(state_directory: Path, start_supervisor: StartSupervisor) -> None:
    start_supervisor(answering(None))
    started = time.monotonic()

    assert refresh(state_directory / "control.sock", 0.2) == FAILED
    assert 0.2 <= time.monotonic() - started < 2.0


def test_full_backlog_is_no_refresh_and_no_wait(state_directory: Path) -> None:
    path = state_directory / "control.sock"
    waiting = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        try:
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(str(path))
        except BlockingIOError:
            started = time.monotonic()
            assert refresh(path, 60.0) == FAILED
            assert time.monotonic() - started < 30.0
        finally:
            for connection in waiting:
                connection.close()


@pytest.mark.parametrize("name", ["gone.sock", "x" * 200])
def test_no_socket_is_no_refresh(state_directory: Path, name: str) -> None:
    assert refresh(state_directory / name, 1.0) == FAILED


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"ready": true, "targets": [1, 2]}\n', Readiness(ready=True, reason="")),
        (b'{"ready": false}\n', Readiness(ready=False, reason="the first reconcile is not through")),
        (b"{}\n", Readiness(ready=False, reason="the supervisor's answer is not understood")),
        (b'{"ready": 1}\n', Readiness(ready=False, reason="the supervisor's answer is not understood")),
        (b"[]\n", Readiness(ready=False, reason="the supervisor's answer is not understood")),
        (b"[" * 100_000 + b"\n", Readiness(ready=False, reason="the supervisor's answer is not understood")),
        (b"\xff\n", Readiness(ready=False, reason="the supervisor's answer is not understood")),
        (b'{"ready": true}', Readiness(ready=False, reason="the supervisor does not answer")),
        (b"x" * (2 << 20), Readiness(ready=False, reason="the supervisor does not answer")),
    ],
    ids=[*"abcdefghi"],
)
def test_readiness_says_ready_or_why_not(
    state_directory: Path, start_supervisor: StartSupervisor, answer: bytes, expected: Readiness
) -> None:
    start_supervisor(answering(answer))

    assert readiness(state_directory / "control.sock", 5.0) == expected
