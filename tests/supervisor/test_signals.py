"""How signals reach the loop."""

import signal
from collections.abc import Iterator

import pytest

from ebpf_userspace_exporter.supervisor.signals import STOPPING, Signals


@pytest.fixture
def signals() -> Iterator[Signals]:
    caught = (*STOPPING, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in caught}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    made = Signals()
    yield made
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        signal.signal(number, handler)
    made.close()


def test_signal_to_stop_is_not_lost_behind_many_children_that_exit(signals: Signals) -> None:
    for _ in range(5000):
        signal.raise_signal(signal.SIGCHLD)
    signal.raise_signal(signal.SIGTERM)

    assert signals.read() == {signal.SIGCHLD, signal.SIGTERM}
    assert signals.read() == set()
