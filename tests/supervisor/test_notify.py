"""Words for the service manager, read as it reads them."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor.notify import notify, reloading


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(10)
        yield listening


def test_states_arrive_as_lines_of_one_datagram(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notify("READY=1", "STATUS=3 targets")

    assert manager.recv(100) == b"READY=1\nSTATUS=3 targets"


def test_address_may_be_abstract(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    manager.bind("")  # the kernel chooses an abstract one
    address: bytes = manager.getsockname()
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + address[1:].decode())
    notify("STOPPING=1")

    assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/notify", "@nobody", "/" + "x" * 200])
def test_manager_that_is_not_there_stops_nobody(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_manager_that_does_not_listen_stops_nobody(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    started = time.monotonic()
    for _ in range(1000):
        notify("READY=1")

    assert time.monotonic() - started < 10


def test_reload_is_announced_with_the_time_on_systemds_clock() -> None:
    before = time.monotonic_ns() // 1000
    first, second = reloading()
    after = time.monotonic_ns() // 1000

    assert first == "RELOADING=1"
    name, _, microseconds = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= after
