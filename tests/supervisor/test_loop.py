"""How signals reach the loop; the loop as a whole is in tests/product."""

import signal
from collections.abc import Iterator

import pytest

from ebpf_userspace_exporter.supervisor.loop import STOPPING, _catch_signals


@pytest.fixture
def numbers() -> Iterator[set[int]]:
    """What signals have arrived while they are caught as in the loop."""
    caught = (*STOPPING, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in caught}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    found: set[int] = set()
    ours, theirs = _catch_signals(found)
    yield found
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        signal.signal(number, handler)
    ours.close()
    theirs.close()


def test_signal_to_stop_is_not_lost_behind_many_children_that_exit(numbers: set[int]) -> None:
    for _ in range(5000):
        signal.raise_signal(signal.SIGCHLD)
    signal.raise_signal(signal.SIGTERM)

    assert numbers == {signal.SIGCHLD, signal.SIGTERM}
