"""The process that forks workers may die or hang at any moment: those at work go on, and new targets get theirs."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.product.exporter import Exporter, exporter, until
from tests.product.faults import Account, is_alive, wait_for_worker
from tests.product.programs import PythonTarget, gc_config, python_target

pytestmark = pytest.mark.bpf

NAME = f"faults{os.getpid()}"  # of the targets: nobody else's exporter looks for it


@pytest.fixture
def target() -> Iterator[PythonTarget]:
    with python_target(NAME) as started:
        yield started


@pytest.fixture
def running(target: PythonTarget) -> Iterator[Exporter]:
    with exporter(gc_config(binary_name=NAME)) as started:
        started.wait_attached("gc_total", target.pid)
        yield started


def kill(server: int) -> None:
    os.kill(server, signal.SIGKILL)


def stop(server: int) -> None:
    os.kill(server, signal.SIGSTOP)


@pytest.mark.parametrize("fault", [kill, stop])
def test_fault_of_the_fork_server_loses_no_event_and_no_target(
    fault: Callable[[int], None], running: Exporter, target: PythonTarget
) -> None:
    account, worker = Account.opened(running, target), wait_for_worker(running, target.pid)
    [server] = running.children("exporter-forks")

    fault(server)
    target.collect(100)

    with python_target(NAME) as another:
        beside = Account.opened(running, another)
        another.collect(7)
        counted, own = beside.balance()
        assert counted == own
    counted, own = account.balance()
    assert counted == own
    assert wait_for_worker(running, target.pid) == worker
    until(lambda: not is_alive(server), "the faulty one is gone")
    with python_target(NAME) as last:
        running.wait_attached("gc_total", last.pid)
        until(lambda: running.children("exporter-forks"), "another fork server")
