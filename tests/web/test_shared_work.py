import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ebpf_userspace_exporter.web.shared_work import SharedWork

DEADLINE_SECONDS = 30.0


class Work:
    """Work that goes on until it is let; each time gives the next number."""

    def __init__(self) -> None:
        self.begun = 0
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        self.has_begun.set()
        assert self.may_end.wait(DEADLINE_SECONDS)
        if number == 3:
            raise ZeroDivisionError
        return number


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def wait_for_waiters(shared: SharedWork[int], waiting: int) -> None:
    """Wait until so many callers wait for work that has not begun: all but the one who will do it in its future."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while shared._next is None or len(vars(shared._next._condition)["_waiters"]) < waiting - 1:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_callers_share_work_that_began_after_they_called_and_none_before(threads: ThreadPoolExecutor) -> None:
    work = Work()
    shared = SharedWork(work)
    first = threads.submit(shared.result)
    assert work.has_begun.wait(DEADLINE_SECONDS)
    later = [threads.submit(shared.result) for _ in range(8)]
    wait_for_waiters(shared, 8)

    work.may_end.set()

    assert first.result(DEADLINE_SECONDS) == 1
    assert [each.result(DEADLINE_SECONDS) for each in later] == [2] * 8


def test_error_is_everybodys_and_the_next_work_is_done(threads: ThreadPoolExecutor) -> None:
    work = Work()
    work.begun = 1
    shared = SharedWork(work)
    first = threads.submit(shared.result)
    assert work.has_begun.wait(DEADLINE_SECONDS)
    failing = [threads.submit(shared.result) for _ in range(3)]
    wait_for_waiters(shared, 3)

    work.may_end.set()

    assert first.result(DEADLINE_SECONDS) == 2
    for each in failing:
        with pytest.raises(ZeroDivisionError):
            each.result(DEADLINE_SECONDS)
    assert shared.result() == 4


def test_nothing_is_kept_of_work_that_was_done() -> None:
    work = Work()
    work.may_end.set()
    shared = SharedWork(work)

    assert [shared.result(), shared.result()] == [1, 2]
    assert shared._next is None
