import math

import pytest

from ebpf_userspace_exporter.worker import series as series_module
from ebpf_userspace_exporter.worker.metric_file import MetricFileError, metric_key
from ebpf_userspace_exporter.worker.series import GaugeSeries, Ledger, Series, SeriesLimitError, resumed

SUM = metric_key("wait_seconds", "wait_seconds_sum", [("pid", "1")], "")
BUCKET = metric_key("wait_seconds", "wait_seconds_bucket", [("pid", "1"), ("le", "1.0")], "")
CALLS = metric_key("calls", "calls_total", [("pid", "1")], "")


@pytest.mark.parametrize(
    ("counted", "last", "total", "map_keys", "now"),
    [
        pytest.param(10, 10.0, 10, 1, 10, id="nothing happened"),
        pytest.param(10, 10.0, 13, 1, 13, id="the map counted on while no worker was there"),
        pytest.param(15, 10.0, 13, 1, 18, id="and what keys held that are gone stays"),
        pytest.param(10, 10.0, 3, 1, 13, id="the one key was deleted and made again"),
        pytest.param(15, 10.0, 3, 1, 18, id="and was before"),
        pytest.param(10, 10.0, 0, 0, 10, id="no key is left"),
        pytest.param(10, 10.0, 7, 2, 10, id="one of several keys is gone, which cannot be known: it stays"),
        pytest.param(15, 10.0, 12, 3, 17, id="several keys counted on"),
        pytest.param(0, 0.0, 4, 1, 4, id="there was nothing yet"),
        pytest.param(2**53, float(2**53 + 1), 2**53 + 1, 1, 2**53 + 1, id="a float64 cannot hold it: not back"),
        pytest.param(2**64, float(2**64), 2**64 - 1, 1, 2**64 - 1, id="rounded up in the file: not back"),
        pytest.param(9, 10.0, 10, 1, 10, id="less was counted than the map held: never below the map"),
    ],
)
def test_a_successor_counts_on(counted: int, last: float, total: int, map_keys: int, now: int) -> None:
    assert resumed(counted, last, total, map_keys) == now


def test_a_value_never_falls_whatever_scaling_rounds() -> None:
    series = Series("key", multiplier=0.1, counted=3, value=0.3)
    assert 3 * 0.1 > 0.3

    assert series.refresh_value() == 3 * 0.1
    series.value = math.nextafter(3 * 0.1, 1.0)
    assert series.refresh_value() > 3 * 0.1


@pytest.mark.parametrize("multiplier", [1.0, 1e-9, 0.001, 0.1, 1 / 3, 7.0, 1e6])
@pytest.mark.parametrize("counted", [0, 1, 3, 999_999_999, 2**40 + 1, 2**53, 2**60 + 12345])
@pytest.mark.parametrize("gone", [0, 5, 10**6 + 7])
def test_many_generations_neither_fall_nor_add(counted: int, multiplier: float, gone: int) -> None:
    before = Series(SUM, multiplier, counted=counted + gone, total=counted)
    value = first = before.refresh_value()
    for _ in range(50):
        ledger = Ledger()
        ledger.restore({SUM: (value, float(counted))}, {"wait_seconds_sum": multiplier})
        restored = ledger.obtain(SUM, dict)
        restored.counted += counted
        restored.total += counted
        ledger.settle({restored: 1})
        assert restored.refresh_value() >= value
        value = restored.value

    assert value == pytest.approx(first, rel=1e-15, abs=0)


def test_a_restored_series_keeps_its_multiplier_and_its_set() -> None:
    ledger = Ledger()
    ledger.restore(
        {BUCKET: (4.0, 4.0), SUM: (2.5, 2000.0), CALLS: (7.0, 7.0)},
        {"wait_seconds_sum": 0.001},
    )

    assert [[each.key for each in series_set.members] for series_set in ledger.sets] == [[BUCKET, SUM], [CALLS]]
    restored = ledger.obtain(SUM, dict)
    assert (restored.multiplier, restored.counted, restored.value) == (0.001, 2500, 2.5)
    assert ledger.unplaced == ledger.sets


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param({CALLS: (math.nan, 1.0)}, id="not a number"),
        pytest.param({CALLS: (1.0, math.inf)}, id="infinite"),
        pytest.param({CALLS: (-1.0, 1.0)}, id="negative"),
        pytest.param({SUM: (1e308, 1.0)}, id="too large for its multiplier"),
        pytest.param({"noise": (1.0, 1.0)}, id="key is no JSON"),
        pytest.param({"[1, 2]": (1.0, 1.0)}, id="key has other parts"),
        pytest.param({'["a","a",[],""]': (1.0, 1.0)}, id="labels are no mapping"),
        pytest.param({"[" * 100_000: (1.0, 1.0)}, id="key is nested without end"),
    ],
)
def test_what_no_worker_wrote_is_not_restored(entries: dict[str, tuple[float, float]]) -> None:
    ledger = Ledger()

    with pytest.raises(MetricFileError):
        ledger.restore({BUCKET: (1.0, 1.0), **entries}, {"wait_seconds_sum": 0.001})

    assert ledger == Ledger()


def test_a_set_that_is_known_in_part_is_completed() -> None:
    ledger = Ledger()
    ledger.restore({BUCKET: (4.0, 4.0)}, {})

    ledger.obtain(SUM, lambda: {BUCKET: 1.0, SUM: 0.5})

    assert [[each.key for each in series_set.members] for series_set in [*ledger.sets, *ledger.waiting]] == [
        [BUCKET],
        [SUM],
    ]


def test_sets_are_admitted_in_the_order_in_which_they_came_and_each_is_told_of_once() -> None:
    ledger = Ledger()
    for key in "abc":
        ledger.add({key: 1.0})

    ledger.admit(1)
    assert ledger.drop_waiting() == 2
    ledger.admit(0)
    ledger.admit(-5)
    assert ledger.drop_waiting() == 0
    ledger.add({"d": 1.0})
    ledger.admit(1)
    assert ledger.drop_waiting() == 1
    assert [each.members[0].key for each in ledger.sets] == ["a", "b"]
    assert [each.members[0].key for each in ledger.waiting] == ["c", "d"]
    assert not any(each.is_dropped for each in ledger.sets)


def test_what_is_forgotten_leaves_nothing_behind() -> None:
    ledger = Ledger(GaugeSeries)
    shown, waiting = ledger.obtain("a", lambda: {"a": 1.0}), ledger.obtain("b", lambda: {"b": 1.0})
    ledger.admit(1)
    ledger.changed.update((shown, waiting))

    ledger.forget({waiting})
    assert not ledger.has_lost, "it was in no file"
    shown.slot = slice(8, 24)
    ledger.forget({shown})

    assert ledger == Ledger(GaugeSeries, has_lost=True)
    assert ledger.obtain("a", lambda: {"a": 1.0}) is not shown


def test_a_gauges_value_may_fall_and_is_finite() -> None:
    gauge = GaugeSeries("key", multiplier=0.5, counted=7)
    assert gauge.refresh_value() == 3.5
    gauge.counted = -2
    assert gauge.refresh_value() == -1.0
    gauge.multiplier = -1e308
    gauge.counted = 100
    assert math.isfinite(gauge.refresh_value())


def test_series_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_module, "MAX_SERIES", 3)
    ledger = Ledger()
    ledger.add({"a": 1.0, "b": 1.0})

    with pytest.raises(SeriesLimitError, match="more than 3 series"):
        ledger.obtain("c", lambda: {"c": 1.0, "d": 1.0})
    assert ledger.obtain("e", lambda: {"e": 1.0}).key == "e"
    with pytest.raises(MetricFileError):
        Ledger().restore(dict.fromkeys("abcd", (1.0, 1.0)), {})
