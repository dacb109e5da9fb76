"""What a worker tells its supervisor over a Unix sequenced-packet socket: JSON, a message a packet, with descriptors.

The other way only words go: `refresh SEQUENCE MAX_SERIES` and `finish MAX_SERIES`, where the last one may be missing; a
closed socket means: exit.
"""

import array
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ebpf_userspace_exporter.worker.bpf.usage import FunctionUsage, MapUsage
from ebpf_userspace_exporter.worker.reasons import Reason

MAX_MESSAGE_BYTES = 64 << 10
MAX_DESCRIPTORS = 250  # the kernel passes at most 253 in one message (SCM_MAX_FD)
FINISH = b"finish"


@dataclass(frozen=True, slots=True)
class MapsMade:
    """The maps exist; their descriptors come with this, in the image's order, before anything is attached."""

    kind: Literal["maps"] = "maps"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The functions are loaded, each has its tag; their descriptors come with this, in the image's order.

    Before anything is attached. Held by the supervisor, they keep no probe: only links do.
    """

    tags: Mapping[str, str]
    kind: Literal["programs"] = "programs"


@dataclass(frozen=True, slots=True)
class Linked:
    """The probes are attached; `more` says that further links follow in another message."""

    more: bool
    kind: Literal["links"] = "links"


@dataclass(frozen=True, slots=True)
class Collected:
    """The maps were read and the files written; sequence 0 is the first time, `publish` asks to rename new files.

    `decode_errors` by metric and `dropped` by reason are new since the last message, `series` is how many label sets
    are shown. What is kept by the kernel is absolute: `maps` by name; `functions`, those that were seen to run, since
    they were loaded; `lost_events` by event table, since it was made.
    """

    sequence: int
    publish: bool
    decode_errors: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    series: int = 0
    maps: Mapping[str, MapUsage] = field(default_factory=dict)
    functions: Mapping[str, FunctionUsage] = field(default_factory=dict)
    lost_events: Mapping[str, int] = field(default_factory=dict)
    final: bool = False
    kind: Literal["collected"] = "collected"


@dataclass(frozen=True, slots=True)
class Failed:
    """Loading or attaching failed; the worker exits."""

    reason: Reason
    message: str
    diagnostics: str = ""
    kind: Literal["failed"] = "failed"


Message = MapsMade | Loaded | Linked | Collected | Failed
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True)
class Request:
    """What the supervisor asks: to read the maps and show up to `max_series` label sets, and if `final`, to say so."""

    sequence: int
    max_series: int
    final: bool


class MessageError(Exception):
    """A packet that is no message, or whose descriptors did not all arrive; `reason` is why its worker is worthless."""

    def __init__(self, text: str, reason: Reason) -> None:
        super().__init__(text)
        self.reason = reason


def send(channel: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """In the worker: send one message with its descriptors."""
    if isinstance(message, Failed):
        # They quote names that anybody may have chosen: bytes that are no UTF-8 have no place in JSON.
        message = replace(message, message=_readable(message.message), diagnostics=_readable(message.diagnostics))
    packet = _ADAPTER.dump_json(message)
    if isinstance(message, Collected) and len(packet) > MAX_MESSAGE_BYTES:
        packet = _ADAPTER.dump_json(replace(message, warnings=message.warnings[:1]))
        if len(packet) > MAX_MESSAGE_BYTES:
            # Hundreds of maps or functions with names of hundreds of letters: that the values are there matters more.
            packet = _ADAPTER.dump_json(replace(message, maps={}, functions={}, warnings=message.warnings[:1]))
    socket.send_fds(channel, [packet], list(descriptors))


def parse_request(words: bytes, max_series: int) -> Request:
    """In the worker: return what was asked; `max_series` is for requests that name none."""
    verb, *numbers = words.split()
    final = verb == FINISH
    sequence = 0 if final else int(numbers.pop(0))
    return Request(sequence, int(numbers[0]) if numbers else max_series, final)


def receive(channel: socket.socket) -> tuple[Message, list[int]] | None:
    """In the supervisor: return the next message and its descriptors, or None when the worker has hung up.

    BlockingIOError when there is none now. The descriptors are close-on-exec from the start, which
    socket.recv_fds leaves out.
    """
    item_bytes = array.array("i").itemsize
    packet, ancillary, flags, _ = channel.recvmsg(
        MAX_MESSAGE_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * item_bytes), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % item_bytes])
    if not packet and not descriptors:
        return None
    if flags & socket.MSG_CTRUNC:
        # The kernel could not install them all: RLIMIT_NOFILE.
        words = "descriptors were lost on the way: the limit of open files is reached"
        raise _closed(descriptors, words, Reason.DESCRIPTORS)
    if flags & socket.MSG_TRUNC:
        raise _closed(descriptors, f"message of more than {MAX_MESSAGE_BYTES} bytes")
    try:
        return _ADAPTER.validate_json(packet), list(descriptors)
    except ValidationError as error:
        raise _closed(descriptors, f"not a message: {error.errors(include_url=False)[0]['msg']}") from error


def _readable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _closed(descriptors: Sequence[int], text: str, reason: Reason = Reason.WORKER_DIED) -> MessageError:
    for descriptor in descriptors:
        os.close(descriptor)
    return MessageError(text, reason)
