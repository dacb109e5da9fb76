"""Words for the service manager, read as it reads them."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor.notify import Watchdog, notify, reloading


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


@pytest.fixture
def told(manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """A manager that is told everything, and does not wait."""
    manager.bind(str(tmp_path / "notify"))
    manager.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return manager


def test_watchdog_is_fed_twice_in_its_time(told: socket.socket) -> None:
    watchdog = Watchdog({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})

    for now in (100.0, 101.0, 114.9, 115.0, 129.0):
        watchdog.ping(now)

    assert [told.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
    with pytest.raises(BlockingIOError):
        told.recv(100)
    assert watchdog.next_deadline() == 130.0


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
    ids=["none", "empty", "no time", "noise", "another's"],
)
def test_watchdog_that_nobody_has_asked_for_wakes_nobody(environment: dict[str, str], told: socket.socket) -> None:
    watchdog = Watchdog(environment)
    watchdog.ping(1e9)

    assert watchdog.next_deadline() == float("inf")
    with pytest.raises(BlockingIOError):
        told.recv(100)
