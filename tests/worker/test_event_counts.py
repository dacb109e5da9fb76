import pytest

from ebpf_userspace_exporter.config.model import Counter, Decoder, Label
from ebpf_userspace_exporter.worker import event_counts
from ebpf_userspace_exporter.worker.event_counts import CounterEvents
from ebpf_userspace_exporter.worker.series import Ledger
from ebpf_userspace_exporter.worker.tally import Tally
from tests.worker.map_contents import SURROUNDINGS

STRING = Decoder(name="string")
LABELS = (
    Label(name="kind", size=1, padding=3, decoders=(Decoder(name="uint"),)),
    Label(name="name", size=4, decoders=(STRING, Decoder(name="regexp", regexps=("^[^x]",)))),
)


class Events:
    """A counter of events, and what became of them."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.tally = Tally()
        counter = Counter(name="opens_total", table="events", labels=LABELS)
        self.events = CounterEvents(counter, [("pid", "7")], self.ledger, SURROUNDINGS)

    def __call__(self, *events: bytes) -> dict[str, int]:
        """Return what each series has counted after these events, by the end of its key."""
        for event in events:
            self.events.take(event, self.tally)
        return {
            series.key.split("{")[1].rsplit("}")[0].replace('"', ""): series.counted
            for series_set in self.ledger.waiting
            for series in series_set.members
        }


def test_each_event_counts_one() -> None:
    counted = Events()(b"\1\0\0\0a\0\0\0", b"\2\0\0\0a\0\0\0", b"\1\0\0\0a\0\0\0")

    assert counted == {"kind:1,name:a,pid:7": 2, "kind:2,name:a,pid:7": 1}


def test_padding_and_what_follows_the_labels_are_not_looked_at() -> None:
    assert Events()(b"\1\0\0\0a\0\0\0", b"\1xyza\0\0\0", b"\1\0\0\0a\0\0\0 and more") == {"kind:1,name:a,pid:7": 3}


def test_an_event_that_is_too_short_is_a_decode_error_told_once() -> None:
    events = Events()

    assert events(b"\1\0\0\0a\0\0", b"", b"\1\0\0\0a\0\0\0") == {"kind:1,name:a,pid:7": 1}
    assert events.tally.decode_errors == {"opens_total": 2}
    assert events.tally.messages == ["opens_total: key: 7 bytes (01 00 00 00 61 00 00), expected 8 bytes"]


def test_an_event_that_no_pattern_matches_is_no_error() -> None:
    events = Events()

    assert events(b"\1\0\0\0x\0\0\0") == {}
    assert events.tally == Tally()


def test_what_is_remembered_of_events_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_counts, "MAX_REMEMBERED", 3)
    events = Events()
    paddings = [bytes([1, number, 0, 0]) + b"a\0\0\0" for number in range(10)]

    assert events(*paddings, *paddings) == {"kind:1,name:a,pid:7": 20}
    assert len(events.events._series) <= 3
