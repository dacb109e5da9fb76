"""The kernel's word on who was forked, has executed something, has another name or has ended: its proc connector.

Messages are a netlink header, a connector's (linux/connector.h) and a proc_event (linux/cn_proc.h). They only say where
to look. Whether any come is the kernel's affair: to a PID or user namespace it sends none and says nothing, a network
namespace has no connector, and before Linux 6.6 CAP_NET_ADMIN is wanted.
"""

import os
import selectors
import socket
import struct
from collections.abc import Container
from math import inf

import structlog

logger = structlog.get_logger()

EVENTS_VARIABLE = "USERSPACE_EXPORTER_EVENTS"  # "off" leaves the connector alone; for comparisons and tests

PAUSE_SECONDS = 0.01  # after an event, for what follows it: an exec its fork, a library its program, an end its begin
BURST_SECONDS = 0.02  # the pauses after it, while more comes: each wakes the supervisor
FORK_SECONDS = 0.2  # after a fork; most execute something before, or end
RECEIVE_BYTES = 4 << 20  # several thousand events; the default holds 0.1 s of a storm
MAX_EVENTS = 20_000  # taken at a time, before others get their turn

_SO_RCVBUFFORCE = 33
_NETLINK_CONNECTOR = 11
_CN_IDX_PROC = _CN_VAL_PROC = 1
_LISTEN, _IGNORE = 1, 2
_ACK, _FORK, _EXEC, _COMM, _EXIT = 0, 1, 2, 0x200, 0x8000_0000
_NLMSG_DONE = 3

_NETLINK_HEADER = struct.Struct("=IHHII")
_CONNECTOR_HEADER = struct.Struct("=IIIIHH")
# Index and value of the connector, its acknowledged number, the kind of event, and the first numbers of what it is
# about: of a fork the parent's thread and process and the child's, of all others the thread and the process.
_EVENT = struct.Struct("=16xII4xI4xI12xIIII")
_MESSAGE_BYTES = 128


class ProcEvents:
    """Which processes to look at, soon after something has happened to them, each once for a burst of events."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        """Subscribe; OSError where the kernel does not let us, or does not answer."""
        self.has_overflowed = False
        """Whether events were lost; to be set back by who has looked at all processes since."""
        self.has_heard = False
        """Whether anything has come; to be set back by who wants to know it of the time from then on."""
        self._selector = selector
        self._drain_at = inf  # while the selector watches the socket
        self._changed: set[int] = set()
        self._forked: dict[int, float] = {}  # when to look at whom, the first first
        self._ended: set[int] = set()
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, flags, _NETLINK_CONNECTOR)
        try:
            _make_room(self._socket)
            self._socket.bind((0, _CN_IDX_PROC))
            self._request(_LISTEN)
            if not self._is_acknowledged():
                raise OSError("the kernel does not answer, as in a PID or user namespace")
            # Before Linux 6.6 there are no filters: the request has another length there and is ignored.
            self._request(_LISTEN, _FORK | _EXEC | _COMM | _EXIT)
            selector.register(self._socket, selectors.EVENT_READ, self._on_readable)
        except OSError:
            self._socket.close()
            raise

    def next_deadline(self) -> float:
        """Return when `take` has something to do."""
        return min(self._drain_at, next(iter(self._forked.values()), inf))

    def take(self, now: float, known: Container[int], *, everything: bool = False) -> set[int]:
        """Return who is to be looked at now.

        With `everything` also those of whom more may be heard, and those that have ended, of the `known` ones: what
        they leave is seldom more than a number that is free.
        """
        if everything or self._drain_at <= now:
            if self._drain(now, known):
                self.has_heard = True
                self._stop_listening(now + BURST_SECONDS)
            else:
                self._listen()
        pids, self._changed = self._changed, set()
        for pid, due in list(self._forked.items()):
            if due > now and not everything:
                break
            pids.add(pid)
            del self._forked[pid]
        if everything:
            pids |= self._ended
            self._ended.clear()
        return pids

    def close(self) -> None:
        """Unsubscribe."""
        if self._drain_at == inf:
            self._selector.unregister(self._socket)
        try:
            self._request(_IGNORE)  # before Linux 6.6 it would go on making events for nobody
        except OSError as error:
            logger.debug("process events not unsubscribed", error=str(error))
        self._socket.close()

    def _on_readable(self, now: float) -> None:
        """Leave what comes in the socket for a while: to wake up for each event costs more than to read it."""
        self._stop_listening(now + PAUSE_SECONDS)

    def _stop_listening(self, until: float) -> None:
        if self._drain_at == inf:
            self._selector.unregister(self._socket)
        self._drain_at = until

    def _listen(self) -> None:
        if self._drain_at < inf:
            self._selector.register(self._socket, selectors.EVENT_READ, self._on_readable)
        self._drain_at = inf

    def _drain(self, now: float, known: Container[int]) -> bool:
        """Take note of what the socket holds; return whether there was anything."""
        for taken in range(MAX_EVENTS):
            try:
                message = self._socket.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return taken > 0
            except OSError:  # ENOBUFS: there was no room for some
                self.has_overflowed = True
                continue
            self._note(message, now, known)
        return True

    def _note(self, message: bytes, now: float, known: Container[int]) -> None:
        if len(message) < _EVENT.size:
            return
        index, value, _acknowledged, kind, thread, process, child_thread, child = _EVENT.unpack_from(message)
        if (index, value) != (_CN_IDX_PROC, _CN_VAL_PROC):
            return
        if kind == _FORK:
            if child == child_thread:
                self._forked.setdefault(child, now + FORK_SECONDS)
        elif thread != process:
            return  # another thread than the first: its name and its end are not the process's
        elif kind == _EXIT:
            self._forked.pop(process, None)
            self._changed.discard(process)
            if process in known:
                self._ended.add(process)
        elif kind in (_EXEC, _COMM):
            self._forked.pop(process, None)
            self._changed.add(process)

    def _request(self, operation: int, kinds: int | None = None) -> None:
        content = struct.pack("=I", operation) if kinds is None else struct.pack("=II", operation, kinds)
        # An acknowledgement is told from others', and from events, by the number after the one that was sent.
        header = _CONNECTOR_HEADER.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, os.getpid(), len(content), 0)
        length = _NETLINK_HEADER.size + len(header) + len(content)
        self._socket.send(_NETLINK_HEADER.pack(length, _NLMSG_DONE, 0, 0, 0) + header + content)

    def _is_acknowledged(self) -> bool:
        """Whether the kernel has answered the request, which it does at once or never."""
        for _ in range(MAX_EVENTS):
            try:
                message = self._socket.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return False
            _, _, acknowledged, kind, error, *_ = _EVENT.unpack_from(message)
            if kind == _ACK and acknowledged == os.getpid() + 1:
                if error:
                    raise OSError(error, os.strerror(error))
                return True
        return False


def subscribe(selector: selectors.BaseSelector) -> ProcEvents | None:
    """Return the events; None, and a line in the log, where there are none: looking in intervals must do then."""
    if os.environ.get(EVENTS_VARIABLE) == "off":
        reason = f"{EVENTS_VARIABLE}=off"
    else:
        try:
            return ProcEvents(selector)
        except OSError as error:
            reason = error.strerror or str(error)
    logger.info("no process events; new targets are found every scan interval", reason=reason)
    return None


def _make_room(channel: socket.socket) -> None:
    try:
        channel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BYTES)
    except PermissionError:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # as much as everybody may have
