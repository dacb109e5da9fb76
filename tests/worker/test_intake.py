"""Events are counted fairly and for a bounded time."""

import time

from ebpf_userspace_exporter.worker.intake import Intake


class Buffer:
    """Gives what it is told to, piece by piece; after that, `endless` pieces for ever."""

    descriptor = -1

    def __init__(self, *pieces: list[bytes], endless: bool = False) -> None:
        self.pieces = list(pieces)
        self.endless = endless

    def take(self) -> list[bytes] | None:
        if self.pieces:
            return self.pieces.pop(0)
        return [b"again"] if self.endless else None

    def close(self) -> None:
        pass


def test_every_event_is_counted_for_its_table() -> None:
    counted: list[tuple[str, bytes]] = []
    buffers = [("a", Buffer([b"1", b"2"], [], [b"3"])), ("b", Buffer()), ("c", Buffer([b"4"]))]
    intake = Intake(buffers, lambda table, event: counted.append((table, event)))
    intake.take(60)

    assert sorted(counted) == [("a", b"1"), ("a", b"2"), ("a", b"3"), ("c", b"4")]
    assert not intake.is_behind


def test_a_flood_ends_with_the_time_and_is_said_to_go_on() -> None:
    intake = Intake([("a", Buffer(endless=True))], lambda _table, _event: None)
    began = time.monotonic()
    intake.take(0.05)

    assert intake.is_behind
    assert time.monotonic() - began < 10


def test_a_flood_in_one_buffer_leaves_the_others_their_turn() -> None:
    counted: list[str] = []
    buffers = [("flood", Buffer(endless=True)), ("quiet", Buffer(*([b"x"] for _ in range(50))))]
    intake = Intake(buffers, lambda table, _event: counted.append(table))
    while counted.count("quiet") < 50:
        intake.take(0)

    assert counted.count("flood") <= 51


def test_without_buffers_there_is_nothing_to_do() -> None:
    intake = Intake([], lambda _table, _event: None)
    intake.take(60)

    assert not intake.is_behind
