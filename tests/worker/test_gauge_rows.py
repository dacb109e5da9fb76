import struct

import pytest

from ebpf_userspace_exporter.config.model import Combine, Decoder, Gauge, Label, ValueType
from ebpf_userspace_exporter.worker.bpf.maps import Rows, possible_cpus
from ebpf_userspace_exporter.worker.gauge_rows import GaugeRows
from ebpf_userspace_exporter.worker.series import GaugeSeries, Ledger
from ebpf_userspace_exporter.worker.tally import Tally
from tests.worker.map_contents import SURROUNDINGS, per_cpu_rows, rows_of, rows_with_leaves

NUMBER = Label(name="number", size=1, padding=1, decoders=(Decoder(name="uint"),))
CPU = Label(name="cpu")


class Read:
    """A gauge's rows, and what became of them."""

    def __init__(
        self,
        *labels: Label,
        combine: Combine = Combine.SUM,
        multiplier: float = 1.0,
        value_type: ValueType | None = None,
        offset: int = 0,
    ) -> None:
        gauge = Gauge(
            name="size",
            table="sizes",
            labels=labels,
            combine=combine,
            value_multiplier=multiplier,
            value_type=value_type,
            value_offset=offset,
        )
        self.ledger = Ledger(GaugeSeries)
        self.rows = GaugeRows(gauge, [("pid", "7")], self.ledger, SURROUNDINGS)
        self.tally = Tally()

    def __call__(self, rows: dict[bytes, int] | Rows) -> dict[str, float]:
        """Return each series' value after this read, by the end of its key."""
        self.tally = Tally()
        self.rows.take(rows if isinstance(rows, Rows) else rows_of(rows), self.tally)
        return {
            series.key.split("{")[1].rsplit("}")[0].replace('"', ""): series.refresh_value()
            for series_set in self.ledger.waiting
            for series in series_set.members
        }


def test_a_gauge_is_what_the_row_is_now() -> None:
    read = Read(NUMBER)

    assert [read({b"\1\0": number})["number:1,pid:7"] for number in (5, 2, 0, 9)] == [5, 2, 0, 9]


def test_a_row_that_is_gone_ends_its_series() -> None:
    read = Read(NUMBER)
    read({b"\1\0": 5, b"\2\0": 6})

    assert read({b"\2\0": 6}) == {"number:2,pid:7": 6}
    assert read({b"\1\0": 1}) == {"number:1,pid:7": 1}
    assert read({}) == {}


def test_a_gauge_without_labels_has_a_series_while_there_are_rows() -> None:
    read = Read()

    assert read({}) == {}
    assert read({b"any": 5, b"key": 6}) == {"pid:7": 11}
    assert read({b"any": 5}) == {"pid:7": 5}
    assert read({}) == {}


@pytest.mark.parametrize(("combine", "value"), [(Combine.SUM, 12), (Combine.MAX, 7), (Combine.MIN, 2)])
def test_rows_of_equal_labels_combine_as_configured(combine: Combine, value: float) -> None:
    read = Read(NUMBER, combine=combine)
    rows = {b"\1a": 3, b"\1b": 7, b"\1c": 2, b"\2a": 100}

    assert read(rows) == {"number:1,pid:7": value, "number:2,pid:7": 100}
    assert read({b"\1b": 7}) == {"number:1,pid:7": 7}


@pytest.mark.parametrize(("combine", "value"), [(Combine.SUM, -6), (Combine.MAX, -0.5), (Combine.MIN, -3.5)])
def test_with_a_negative_multiplier_it_is_still_the_values_that_combine(combine: Combine, value: float) -> None:
    read = Read(combine=combine, multiplier=-0.5)

    assert read({b"a": 7, b"b": 1, b"c": 4}) == {"pid:7": value}
    assert str(read({b"a": 0})["pid:7"]) == "0.0"


def test_a_value_is_the_number_times_the_multiplier_and_may_be_negative() -> None:
    read = Read(NUMBER, multiplier=0.001, value_type=ValueType.S32, offset=4)

    assert read(rows_with_leaves({b"\1\0": struct.pack("=Ii", 9, -1500)}, leaf_bytes=8)) == {"number:1,pid:7": -1.5}


def test_a_value_is_always_finite() -> None:
    assert Read(multiplier=1e300)({b"": 2**63}) == {"pid:7": pytest.approx(1.797693134862315e308)}


def test_a_cpu_has_a_series_also_at_zero() -> None:
    shares = [0, *range(1, possible_cpus())]

    assert Read(NUMBER, CPU)(per_cpu_rows({b"\1\0": shares})) == {
        f"number:1,cpu:{cpu},pid:7": share for cpu, share in enumerate(shares)
    }


def test_a_bad_key_is_counted_once_while_it_is_there() -> None:
    read = Read(NUMBER)

    assert read({b"odd": 1, b"\1\0": 2}) == {"number:1,pid:7": 2}
    assert read.tally.decode_errors == {"size": 1}
    read({b"odd": 1})
    assert read.tally == Tally()
    read({})
    read({b"odd": 1})
    assert read.tally.decode_errors == {"size": 1}
