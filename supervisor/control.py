"""The control socket: the web asks for a refresh, whoever may asks for the status. Nothing else can be asked.

One line a connection, one line back: `refresh SECONDS` -> `ok FRESH STALE`, `ready` and `status` -> JSON, else
`error TEXT`.
"""

import os
import selectors
import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

MAX_REQUEST_BYTES = 128
MAX_CLIENTS = 64
CLIENT_SECONDS = 5.0  # to say what it wants
MAX_REFRESH_SECONDS = 1.0
MAX_PENDING_BYTES = 64 << 20  # of answers, all clients' together, that are not read yet


@dataclass(eq=False, slots=True)
class Client:
    """A connection; `received` is what has come of its line, `unsent` what it has not read of its answer."""

    channel: socket.socket
    deadline: float
    received: bytes = b""
    has_asked: bool = False
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))


class ControlSocket:
    """Accepts connections of permitted users and hands their requests on; never waits for anybody."""

    def __init__(
        self,
        path: Path,
        *,
        group: int | None,
        allowed_uids: Collection[int],
        selector: selectors.BaseSelector,
        on_refresh: Callable[[Client, float], None],
        on_ready: Callable[[], str],
        on_status: Callable[[], str],
    ) -> None:
        self._allowed_uids = frozenset(allowed_uids)
        self._selector = selector
        self._on_refresh = on_refresh
        self._on_ready = on_ready
        self._on_status = on_status
        self._clients: set[Client] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        previous = os.umask(0o177)
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(previous)
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(0o660)
        self._listener.listen(MAX_CLIENTS)
        selector.register(self._listener, selectors.EVENT_READ, self.accept)

    def accept(self, now: float) -> None:
        """Take the connections that wait."""
        while True:
            try:
                channel, _ = self._listener.accept()
            except OSError:
                return  # none left, or no descriptor for it: it stays in the queue
            channel.setblocking(False)
            uid = struct.unpack("iII", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
            if uid not in self._allowed_uids or len(self._clients) >= MAX_CLIENTS:
                channel.close()
                continue
            client = Client(channel, now + CLIENT_SECONDS)
            self._clients.add(client)
            self._selector.register(channel, selectors.EVENT_READ, lambda now, client=client: self._read(client, now))

    def answer(self, client: Client, line: str) -> None:
        """Send the one line and hang up; what the socket has no room for follows as the client reads, in its time."""
        if client not in self._clients:
            return
        client.unsent = memoryview(line.encode() + b"\n")
        if not self._send(client):
            return
        if sum(len(other.unsent) for other in self._clients) > MAX_PENDING_BYTES:
            self._hang_up(client)
            return
        self._selector.modify(client.channel, selectors.EVENT_WRITE, lambda _now: self._send(client))

    def drop_late(self, now: float) -> None:
        """Hang up on who never said what for, or does not read the answer."""
        for client in [client for client in self._clients if client.deadline <= now]:
            self._hang_up(client)

    def next_deadline(self) -> float:
        """Return when `drop_late` has something to do."""
        return min((client.deadline for client in self._clients), default=float("inf"))

    def close(self) -> None:
        """Hang up on everybody."""
        for client in list(self._clients):
            self._hang_up(client)
        self._selector.unregister(self._listener)
        self._listener.close()

    def _read(self, client: Client, now: float) -> None:
        try:
            part = client.channel.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        client.received += part
        if client.has_asked:
            self._hang_up(client)  # it gave up waiting, or says more than one line
        elif b"\n" in client.received:
            client.has_asked = True
            client.deadline = now + CLIENT_SECONDS
            self._request(client, client.received.partition(b"\n")[0])
        elif not part or len(client.received) >= MAX_REQUEST_BYTES:
            self._hang_up(client)

    def _request(self, client: Client, line: bytes) -> None:
        match line.split():
            case [b"ready"]:
                self.answer(client, self._on_ready())
            case [b"status"]:
                self.answer(client, self._on_status())
            case [b"refresh", seconds]:
                try:
                    wanted = float(seconds)
                except ValueError:
                    wanted = -1.0
                if 0 < wanted < 1e6:
                    self._on_refresh(client, min(wanted, MAX_REFRESH_SECONDS))
                else:
                    self.answer(client, "error expected: refresh SECONDS")
            case _:
                self.answer(client, "error expected: refresh SECONDS, ready or status")

    def _send(self, client: Client) -> bool:
        """Send what there is room for; return whether something is left, else hang up."""
        try:
            client.unsent = client.unsent[client.channel.send(client.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            client.unsent = memoryview(b"")  # it is gone
        if client.unsent:
            return True
        self._hang_up(client)
        return False

    def _hang_up(self, client: Client) -> None:
        self._clients.discard(client)
        self._selector.unregister(client.channel)
        client.channel.close()
