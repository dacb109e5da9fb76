"""The control socket against real clients."""

import os
import selectors
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor import control
from ebpf_userspace_exporter.supervisor.control import CLIENT_SECONDS, Client, ControlSocket

NOBODY = 65534


@dataclass
class Harness:
    path: Path
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    refreshes: list[tuple[Client, float]] = field(default_factory=list)
    status: str = '{"targets": []}'
    control: ControlSocket = field(init=False)

    def __post_init__(self) -> None:
        self.control = ControlSocket(
            self.path,
            group=NOBODY if os.geteuid() == 0 else None,
            allowed_uids={os.geteuid()},
            selector=self.selector,
            on_refresh=lambda client, seconds: self.refreshes.append((client, seconds)),
            on_ready=lambda: '{"ready": true}',
            on_status=lambda: self.status,
        )

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(str(self.path))
        return client

    def turn(self) -> None:
        """Let the server do what is there to do."""
        while ready := self.selector.select(0.05):
            for key, _ in ready:
                key.data(time.monotonic())


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path / "control.sock")
    yield made
    made.control.close()
    made.selector.close()


def ask(harness: Harness, line: bytes) -> bytes:
    with harness.connect() as client:
        client.sendall(line)
        harness.turn()
        return client.recv(4096)


@pytest.mark.parametrize(
    ("question", "answer"), [(b"status\n", b'{"targets": []}\n'), (b"ready\n", b'{"ready": true}\n')]
)
def test_a_question_is_answered_with_one_line(question: bytes, answer: bytes, harness: Harness) -> None:
    assert ask(harness, question) == answer


def test_refresh_is_answered_when_it_is_through(harness: Harness) -> None:
    with harness.connect() as client:
        client.sendall(b"refresh 0.8\n")
        harness.turn()
        [(asking, seconds)] = harness.refreshes
        harness.control.answer(asking, "ok 3 1")

        assert seconds == 0.8
        assert client.recv(4096) == b"ok 3 1\n"
        assert client.recv(1) == b""


def test_deadline_of_a_refresh_has_a_limit(harness: Harness) -> None:
    with harness.connect() as client:
        client.sendall(b"refresh 3600\n")
        harness.turn()

    assert harness.refreshes[0][1] == 1.0


@pytest.mark.parametrize(
    "line", [b"refresh\n", b"refresh nan\n", b"refresh -1\n", b"refresh inf\n", b"stop\n", b"\n", b"\xff\n"]
)
def test_anything_else_is_refused(harness: Harness, line: bytes) -> None:
    assert ask(harness, line).startswith(b"error expected: refresh SECONDS")
    assert harness.refreshes == []


def test_line_without_end_is_hung_up_on(harness: Harness) -> None:
    with pytest.raises(ConnectionResetError):
        ask(harness, b"x" * 4096)


def test_client_that_says_nothing_is_hung_up_on(harness: Harness) -> None:
    with harness.connect() as client:
        harness.turn()
        assert harness.control.next_deadline() <= time.monotonic() + CLIENT_SECONDS
        harness.control.drop_late(time.monotonic() + CLIENT_SECONDS + 1)

        assert client.recv(1) == b""


def test_client_that_left_before_the_answer_is_forgotten(harness: Harness) -> None:
    with harness.connect() as client:
        client.sendall(b"refresh 1\n")
        harness.turn()
    harness.turn()

    harness.control.answer(harness.refreshes[0][0], "ok 0 0")
    assert harness.control.next_deadline() == float("inf")


def test_an_answer_larger_than_the_socket_s_buffer_arrives_whole(harness: Harness) -> None:
    harness.status = "x" * (4 << 20)
    with harness.connect() as client:
        client.sendall(b"status\n")
        harness.turn()
        client.setblocking(False)
        received = b""
        while not received.endswith(b"\n"):
            try:
                received += client.recv(1 << 20)
            except BlockingIOError:
                harness.turn()

        assert received == harness.status.encode() + b"\n"
        harness.turn()
        client.settimeout(10)
        assert client.recv(1) == b""
    assert harness.control.next_deadline() == float("inf")


def test_a_client_that_does_not_read_costs_no_turn_and_is_dropped_at_its_deadline(harness: Harness) -> None:
    harness.status = "x" * (4 << 20)
    with harness.connect() as client:
        client.sendall(b"status\n")
        harness.turn()
        assert harness.selector.select(0.05) == []  # nothing to do until it reads
        deadline = harness.control.next_deadline()
        assert deadline <= time.monotonic() + CLIENT_SECONDS
        harness.control.drop_late(deadline)

        received = 0
        while part := client.recv(1 << 20):
            received += len(part)
        assert received < len(harness.status)


def test_answers_that_nobody_reads_are_held_up_to_a_limit(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_PENDING_BYTES", 6 << 20)
    harness.status = "x" * (4 << 20)
    with harness.connect() as first, harness.connect() as second:
        first.sendall(b"status\n")
        harness.turn()
        second.sendall(b"status\n")
        harness.turn()
        received = 0
        while part := second.recv(1 << 20):
            received += len(part)

        assert received < len(harness.status)
        assert harness.control.next_deadline() < float("inf")  # the first one still has its time


def test_a_client_that_leaves_in_the_midst_of_its_answer_is_forgotten(harness: Harness) -> None:
    harness.status = "x" * (4 << 20)
    with harness.connect() as client:
        client.sendall(b"status\n")
        harness.turn()
        client.recv(1)
    harness.turn()

    assert harness.control.next_deadline() == float("inf")


def test_socket_is_for_its_owner_and_group_only(harness: Harness) -> None:
    status = harness.path.stat()

    assert stat.S_IMODE(status.st_mode) == 0o660
    assert status.st_uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_other_users_are_hung_up_on_even_where_the_mode_lets_them_in(harness: Harness) -> None:
    harness.path.chmod(0o666)
    harness.path.parent.chmod(0o755)
    for folder in harness.path.parent.parents:
        if folder.stat().st_uid == 0 and folder != Path("/") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY - 1)
            os.setuid(NOBODY - 1)
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(harness.path))
            client.sendall(b"status\n")
            status = 0 if client.recv(100) == b"" else 2
        except (ConnectionResetError, BrokenPipeError):
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        harness.turn()
        assert time.monotonic() < deadline
    assert os.waitstatus_to_exitcode(ended[1]) == 0
