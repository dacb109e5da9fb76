"""What a worker says, over a real socket with real descriptors."""

import array
import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ebpf_userspace_exporter.worker.bpf.usage import FunctionUsage, MapUsage
from ebpf_userspace_exporter.worker.messages import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE_BYTES,
    Collected,
    Failed,
    Linked,
    Loaded,
    MapsMade,
    Message,
    MessageError,
    Request,
    parse_request,
    receive,
    send,
)
from ebpf_userspace_exporter.worker.reasons import Reason


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's end, which never waits, and the worker's."""
    before = set(os.listdir("/proc/self/fd"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs
    assert set(os.listdir("/proc/self/fd")) == before


Channel = tuple[socket.socket, socket.socket]


def exchange(channel: Channel, message: Message, *descriptors: int) -> list[int]:
    """Send a message, check that it arrives as it was, and return the descriptors that came with it."""
    send(channel[1], message, descriptors)
    received = receive(channel[0])
    assert received is not None
    assert received[0] == message
    return received[1]


def close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.mark.parametrize(
    "message",
    [
        MapsMade(),
        Loaded({"on_call": "0123456789abcdef"}),
        Linked(more=True),
        Collected(
            7, publish=True, decode_errors={"m": 2}, dropped={"no_space": 1}, warnings=('a "word"\n',), final=True
        ),
        Collected(
            8,
            publish=False,
            series=3,
            maps={"counts": MapUsage(7, 64, 4096), "events": MapUsage(None, 65536, 70_000)},
            functions={"on_call": FunctionUsage(12, 1.25e-06)},
            lost_events={"events": 5},
        ),
        Collected(0, publish=False),
        Failed(Reason.VERIFIER, "no", "R1 invalid \u20ac\n" * 100),
    ],
    ids=lambda message: message.kind,
)
def test_message_arrives_as_it_was(channel: Channel, message: Message) -> None:
    assert exchange(channel, message) == []


def test_descriptors_arrive_in_order_and_are_closed_by_an_exec(channel: Channel) -> None:
    pairs = [os.pipe() for _ in range(3)]
    got = exchange(channel, MapsMade(), *(reading for reading, _ in pairs))
    try:
        for number, (_, writing) in enumerate(pairs):
            os.write(writing, b"%d" % number)
            assert os.read(got[number], 10) == b"%d" % number
            assert fcntl.fcntl(got[number], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        close([*got, *(end for pair in pairs for end in pair)])


def test_more_links_than_a_message_takes_come_in_several(channel: Channel) -> None:
    one = os.open("/dev/null", os.O_RDONLY)
    got = exchange(channel, Linked(more=True), *[one] * MAX_DESCRIPTORS)
    got += exchange(channel, Linked(more=False), *[one] * 50)
    os.close(one)

    assert len(set(got)) == 300
    close(got)


def test_worker_that_has_hung_up_is_none(channel: Channel) -> None:
    ours, theirs = channel
    send(theirs, MapsMade())
    theirs.close()

    assert receive(ours) is not None
    assert receive(ours) is None


def test_silence_does_not_block(channel: Channel) -> None:
    with pytest.raises(BlockingIOError):
        receive(channel[0])


@pytest.mark.parametrize(
    "packet",
    [
        b"noise",
        b"{}",
        b'{"kind":"other"}',
        b'{"kind":"failed","reason":"no such reason","message":""}',
        b'{"kind":"collected","sequence":"x","publish":true}',
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
def test_what_is_no_message_is_an_error_and_its_descriptors_are_closed(channel: Channel, packet: bytes) -> None:
    ours, theirs = channel
    one = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(theirs, [packet], [one, one])
    os.close(one)
    with pytest.raises(MessageError, match="not a message") as raised:
        receive(ours)

    assert raised.value.reason is Reason.WORKER_DIED


def test_message_that_is_too_long_is_an_error(channel: Channel) -> None:
    ours, theirs = channel
    one = os.open("/dev/null", os.O_RDONLY)
    send(theirs, Failed(Reason.VERIFIER, "x" * MAX_MESSAGE_BYTES), [one])
    os.close(one)
    with pytest.raises(MessageError, match="message of more than 65536 bytes"):
        receive(ours)


def test_as_many_maps_and_functions_as_an_image_may_have_fit(channel: Channel) -> None:
    maps = {f"a_map_with_a_name_of_some_length_{number}": MapUsage(10_240, 10_240, 10**9) for number in range(250)}
    functions = {f"on_a_function_with_a_name_{number}": FunctionUsage(10**12, 12345.678901234) for number in range(250)}

    assert exchange(channel, Collected(1, publish=True, maps=maps, functions=functions)) == []


def test_what_does_not_fit_is_left_out_and_the_words_first(channel: Channel) -> None:
    ours, theirs = channel
    maps = {"counts": MapUsage(1, 2, 3)}
    wordy = Collected(1, publish=True, maps=maps, warnings=("w" * 1000,) * 100)
    long_names = {f"{number}{'x' * 256}": MapUsage(1, 2, 3) for number in range(250)}
    send(theirs, wordy)
    assert receive(ours) == (replace(wordy, warnings=("w" * 1000,)), [])
    send(theirs, Collected(2, publish=True, maps=long_names, lost_events={"events": 5}))
    assert receive(ours) == (Collected(2, publish=True, lost_events={"events": 5}), [])


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (b"refresh 7", Request(7, 100, final=False)),
        (b"refresh 7 20", Request(7, 20, final=False)),
        (b"refresh 0 0", Request(0, 0, final=False)),
        (b"finish", Request(0, 100, final=True)),
        (b"finish 20", Request(0, 20, final=True)),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else "",
)
def test_a_request_says_how_much_to_show_or_leaves_it(words: bytes, request_: Request) -> None:
    assert parse_request(words, 100) == request_


def test_descriptors_that_find_no_place_are_an_error_and_none_stays_open(channel: Channel) -> None:
    ours, theirs = channel
    one = os.open("/dev/null", os.O_RDONLY)
    send(theirs, MapsMade(), [one] * 10)
    os.close(one)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (one + 3, hard))
    try:
        with pytest.raises(MessageError, match="limit of open files") as raised:
            receive(ours)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert raised.value.reason is Reason.DESCRIPTORS


def test_more_descriptors_than_any_message_has_are_an_error(channel: Channel) -> None:
    """The kernel lets 253 through; the supervisor makes room for no more than it asked for."""
    ours, theirs = channel
    one = os.open("/dev/null", os.O_RDONLY)
    theirs.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one] * 253))])
    os.close(one)
    with pytest.raises(MessageError):
        receive(ours)


def test_words_that_are_no_text_arrive_readable(channel: Channel) -> None:
    """A target's file may have any bytes for a name, and the worker must be able to complain about it."""
    ours, theirs = channel
    send(theirs, Failed(Reason.FILE_NOT_FOUND, "/opt/caf\udce9: not mapped", "\udcff"))
    received = receive(ours)

    assert received is not None
    assert received[0] == Failed(Reason.FILE_NOT_FOUND, "/opt/caf\\udce9: not mapped", "\\udcff")
