"""Work that several threads want done at the same time, done once for all of them."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SharedWork(Generic[Result]):
    """One piece of work, done again and again, never by two threads at once."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._working = threading.Lock()
        self._changing = threading.Lock()
        self._next: Future[Result] | None = None

    def result(self) -> Result:
        """Return the result of work that began after this call; who waits for the same beginning shares it.

        Work in progress is not joined: it may have passed what the caller wants seen. An error of it is everybody's.
        """
        with self._changing:
            is_first = self._next is None
            future = self._next = self._next or Future()
        if is_first:
            with self._working:
                with self._changing:
                    self._next = None
                try:
                    future.set_result(self._work())
                except BaseException as error:
                    future.set_exception(error)
        return future.result()
