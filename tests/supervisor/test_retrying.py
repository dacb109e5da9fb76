"""How long to wait."""

import pytest

from ebpf_userspace_exporter.supervisor.retrying import recheck_seconds, restart_seconds, retry_seconds


def test_the_wait_doubles_up_to_a_minute() -> None:
    assert [retry_seconds(attempts) for attempts in (1, 2, 3, 6, 7, 8)] == [1, 2, 4, 32, 60, 60]
    assert [restart_seconds(attempts) for attempts in (0, 1, 2, 3)] == [0.1, 0.1, 0.2, 0.4]


@pytest.mark.parametrize("attempts", [1025, 10**9])
def test_no_number_of_attempts_is_too_many(attempts: int) -> None:
    """A target that failed for 17 hours would have ended the exporter: 2.0 ** 1024 is an OverflowError."""
    assert retry_seconds(attempts) == 60
    assert restart_seconds(attempts) == 60


def test_what_is_young_is_looked_at_often_and_what_is_old_every_rescan_interval() -> None:
    assert [recheck_seconds(age, 10.0) for age in (0.0, 3.0, 1000.0)] == [1.0, 3.0, 10.0]
    assert recheck_seconds(1000.0, 0.5) == 0.5
