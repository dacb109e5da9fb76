"""Which targets stay; nothing here is a process."""

import pytest

from ebpf_userspace_exporter.supervisor.selection.limits import within_limit
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target


def target(pid: int, start_ticks: int) -> Target:
    return Target(Slot("malloc", pid), "digest", start_ticks, ExecMark(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("most", "known", "expected"),
    [
        pytest.param(9, set(), [30, 40, 10, 20], id="all"),
        pytest.param(2, set(), [30, 40], id="oldest"),
        pytest.param(2, {20}, [20, 30], id="known before older"),
        pytest.param(1, {10, 20}, [10], id="older of those known"),
        pytest.param(0, {10}, [], id="none"),
    ],
)
def test_known_ones_stay_then_the_oldest(most: int, known: set[int], expected: list[int]) -> None:
    targets = [
        target(10, start_ticks=7),
        target(20, start_ticks=8),
        target(40, start_ticks=5),
        target(30, start_ticks=5),
    ]

    kept = within_limit(targets, most, {Slot("malloc", pid) for pid in known} | {Slot("other", 10)})

    assert [each.slot.pid for each in kept] == expected
