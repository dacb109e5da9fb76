"""Workers from the fork server: ordered without waiting, and given out when they are there."""

import os
import selectors
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import structlog

from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.fork_server import SERVER_NAME, order, serve
from ebpf_userspace_exporter.supervisor.retrying import restart_seconds
from ebpf_userspace_exporter.worker.process import Assignment

logger = structlog.get_logger()

BIRTH_SECONDS = 10.0  # that an order may take; the first one waits for the rehearsal
MAX_UNTAKEN = 256  # that were wanted, but for another image than they were ordered for
_ANSWER_BYTES = 32


@dataclass(frozen=True, slots=True)
class Newborn:
    """A worker that waits for an assignment of its template's kind, and exits when its channel is closed."""

    pid: int
    channel: socket.socket
    template: Assignment


@dataclass(frozen=True, slots=True)
class _Order:
    template: Assignment
    channel: socket.socket
    on_answer: Callable[[float], bool]
    late_at: float


class Newborns:
    """The workers that nobody has taken yet, and the fork server, which is started anew when it dies or hangs."""

    def __init__(self, selector: selectors.BaseSelector, rehearse: Callable[[], None]) -> None:
        """`rehearse` is what the fork server does before it takes orders."""
        self._selector = selector
        self._rehearse = rehearse
        self._server: int | None = None
        self._channel: socket.socket | None = None
        self._orders: deque[_Order] = deque()
        self._untaken: list[Newborn] = []
        self._deaths = 0  # since the last answer
        self._start_at = 0.0

    def take(self, template: Assignment) -> Newborn | None:
        """Return a worker for such assignments, None if there is none now."""
        for place, newborn in enumerate(self._untaken):
            if newborn.template.image is template.image and newborn.template == template:
                return self._untaken.pop(place)
        return None

    def order(self, template: Assignment, on_answer: Callable[[float], bool], now: float) -> bool:
        """Order a worker; False if none can be ordered.

        `on_answer` is called when it is there or will not be, and returns whether it is still wanted.
        """
        if self._orders and self._orders[0].late_at <= now:
            logger.warning("fork server hangs", seconds=BIRTH_SECONDS)
            self._hang_up(now)
        self.start(now)
        if self._channel is None:
            return False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                order(self._channel, template, theirs)
            except OSError:  # it is dead, or so far behind that there is no room for another order
                ours.close()
                return False
        self._orders.append(_Order(template, ours, on_answer, now + BIRTH_SECONDS))
        return True

    def start(self, now: float) -> None:
        """Start the fork server, unless it is there or died a moment ago."""
        if self._server is not None or now < self._start_at:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        supervisor = os.getpid()
        with theirs:
            try:
                self._server = children.spawn(
                    SERVER_NAME, lambda: serve(theirs, supervisor, self._rehearse), keep=(theirs.fileno(),)
                )
            except OSError as error:
                logger.warning("no fork server: workers take more memory", error=str(error))
                ours.close()
                return
        self._channel = ours
        self._selector.register(ours, selectors.EVENT_READ, self._on_answers)

    def on_exit(self, pid: int, exit_code: int, now: float) -> bool:
        """Do without the server, or a worker that nobody has taken; False if that child was neither."""
        if pid == self._server:
            self._server = None
            self._deaths += 1
            self._start_at = max(self._start_at, now + restart_seconds(self._deaths))
            if self._start_at < inf:
                logger.warning("fork server gone", ended=children.describe_exit(exit_code))
            self._hang_up(now)
            return True
        for newborn in self._untaken:
            if newborn.pid == pid:
                newborn.channel.close()
                self._untaken.remove(newborn)
                return True
        return False

    def stop(self, now: float) -> None:
        """End the server and whomever nobody has taken, for good."""
        self._start_at = inf
        self._hang_up(now)
        for newborn in self._untaken:
            newborn.channel.close()
        self._untaken.clear()

    @property
    def is_idle(self) -> bool:
        """Whether there is no server."""
        return self._server is None

    def _on_answers(self, now: float) -> None:
        while self._channel is not None:
            try:
                answer = self._channel.recv(_ANSWER_BYTES)
            except BlockingIOError:
                return
            except OSError:
                answer = b""
            if not answer:
                self._hang_up(now)
                return
            self._deaths = 0
            ordered = self._orders.popleft()
            pid = int(answer)
            if not ordered.on_answer(now) or not _is_child(pid):  # or it has died already
                ordered.channel.close()
                continue
            self._untaken.append(Newborn(pid, ordered.channel, ordered.template))
            if len(self._untaken) > MAX_UNTAKEN:
                self._untaken.pop(0).channel.close()

    def _hang_up(self, now: float) -> None:
        """Expect nothing more of this server: whom it forks meanwhile finds its channel closed, and exits."""
        if self._channel is not None:
            self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = None
        if self._server is not None:
            children.kill(self._server)
        orders = list(self._orders)
        self._orders.clear()
        for ordered in orders:
            ordered.channel.close()
            ordered.on_answer(now)


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
