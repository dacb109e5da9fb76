"""Signals as something that can be waited for: a handler does nothing but note the number."""

import contextlib
import signal
import socket

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # what ends a process that does not handle it


class Signals:
    """Readable when a signal has come; those of children and those that stop or reload."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        # The bytes in the socket would tell it too, but when many children exit at once there is no room for all.
        self.wakeup, self._signalled = socket.socketpair()
        self.wakeup.setblocking(False)
        self._signalled.setblocking(False)
        for number in (*STOPPING, signal.SIGCHLD):
            signal.signal(number, lambda number, _: self._numbers.add(number))
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def read(self) -> set[int]:
        """Return the numbers of those that have come since the last time."""
        with contextlib.suppress(BlockingIOError):
            while self.wakeup.recv(4096):
                pass
        numbers = self._numbers.copy()
        self._numbers -= numbers
        return numbers

    def close(self) -> None:
        """Let go of what wakes."""
        self.wakeup.close()
        self._signalled.close()
