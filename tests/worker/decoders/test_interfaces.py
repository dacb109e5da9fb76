"""The interfaces of real processes, in our network namespace and in others."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.decoders.interfaces import Interfaces


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_sees_what_the_system_calls_see() -> None:
    interfaces = Interfaces(os.getpid())

    assert {index: interfaces.name(index) for index, _ in socket.if_nameindex()} == dict(socket.if_nameindex())


def test_an_index_that_nobody_has_and_a_process_that_is_not_there_have_no_names() -> None:
    assert Interfaces(os.getpid()).name(0) is None
    assert Interfaces(os.getpid()).name(2**31 - 1) is None
    assert Interfaces(2**22 + 1).name(1) is None


@pytest.fixture
def elsewhere() -> Iterator[subprocess.Popen[str]]:
    """Yield a shell in a new network namespace, which runs each line and answers it."""
    process = subprocess.Popen(
        ["unshare", "--net", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    tell(process, "true")
    yield process
    process.communicate()


def tell(shell: subprocess.Popen[str], command: str) -> None:
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{command}; echo $?\n")
    shell.stdin.flush()
    assert shell.stdout.readline() == "0\n"


@pytest.mark.bpf
def test_the_names_are_those_of_the_process_and_not_ours(elsewhere: subprocess.Popen[str]) -> None:
    tell(elsewhere, "ip link add name fifteen-letters index 70 type bridge")
    tell(elsewhere, "ip link set lo up; ip link add name pair-a index 71 type veth peer name pair-b index 72")
    tell(elsewhere, "ip address add 192.0.2.1/24 dev pair-a; ip link set pair-a up")
    interfaces = Interfaces(elsewhere.pid)

    assert [interfaces.name(index) for index in (1, 70, 71, 72)] == ["lo", "fifteen-letters", "pair-a", "pair-b"]
    ours = [index for index, _ in socket.if_nameindex() if index > 1]
    assert [interfaces.name(index) for index in ours] == [None] * len(ours)


@pytest.mark.bpf
@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="this kernel has no TUN devices")
def test_an_interface_without_ipv6_is_seen_once_it_is_up(elsewhere: subprocess.Popen[str]) -> None:
    clock = Clock()
    interfaces = Interfaces(elsewhere.pid, clock)
    tell(elsewhere, "ip tuntap add mode tun name fifteen-letters")
    tell(elsewhere, "ip link set fifteen-letters mtu 1000")  # IPv6 wants 1280
    assert [interfaces.name(index) for index in (1, 2)] == ["lo", None]

    tell(elsewhere, "ip link set fifteen-letters up")
    clock.now += 1
    assert [interfaces.name(index) for index in (1, 2)] == ["lo", "fifteen-letters"]


@pytest.mark.bpf
def test_a_new_name_is_seen_when_the_old_one_is_no_longer_fresh(elsewhere: subprocess.Popen[str]) -> None:
    clock = Clock()
    interfaces = Interfaces(elsewhere.pid, clock)
    tell(elsewhere, "ip link add name before index 70 type bridge")
    assert interfaces.name(70) == "before"

    tell(elsewhere, "ip link set before name after; ip link add name other index 71 type bridge")
    clock.now += 0.05
    assert (interfaces.name(70), interfaces.name(71)) == ("before", None)

    clock.now += 0.06
    assert (interfaces.name(70), interfaces.name(71)) == ("after", "other")


@pytest.mark.bpf
def test_what_was_seen_of_a_process_stays_when_it_is_gone(elsewhere: subprocess.Popen[str]) -> None:
    clock = Clock()
    interfaces = Interfaces(elsewhere.pid, clock)
    assert interfaces.name(1) == "lo"

    elsewhere.communicate()

    clock.now += 1
    assert interfaces.name(1) == "lo"
