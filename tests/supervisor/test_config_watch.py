"""A file that changes in the ways in which configs do; the times are made up."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor.config_watch import WATCH_SECONDS, ConfigWatch

Looking = Callable[[], bool]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "programs.yaml"
    path.write_text("programs: []")
    return path


@pytest.fixture
def watch(config: Path) -> ConfigWatch:
    return ConfigWatch(config, is_wanted=True)


@pytest.fixture
def look(watch: ConfigWatch) -> Looking:
    """Return what looks once more, after the time for it has come."""
    times = itertools.count(100.0, WATCH_SECONDS)
    return lambda: watch.has_changed(next(times))


def test_a_file_that_stays_has_not_changed(look: Looking) -> None:
    assert [look() for _ in range(4)] == [False] * 4


def test_a_change_is_told_until_it_is_taken(config: Path, watch: ConfigWatch, look: Looking) -> None:
    look()
    config.write_text("programs: [] # changed")

    assert [look(), look(), look()] == [False, True, True]
    watch.take()
    assert [look(), look()] == [False, False]


def test_a_file_that_is_still_being_written_is_left_alone(config: Path, look: Looking) -> None:
    for line in range(5):
        config.write_text("#\n" * line)
        assert not look()

    assert look()


def test_a_file_that_is_missing_for_a_while_is_none_to_read(config: Path, look: Looking) -> None:
    text = config.read_text()
    config.unlink()
    assert [look() for _ in range(3)] == [False] * 3
    config.write_text(text)

    assert [look(), look()] == [False, True]


def test_a_link_in_the_path_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    for version in ("first", "second"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "programs.yaml").write_text("programs: []")
    (tmp_path / "..data").symlink_to("first")
    (tmp_path / "programs.yaml").symlink_to("..data/programs.yaml")
    watch = ConfigWatch(tmp_path / "programs.yaml", is_wanted=True)
    (tmp_path / "..new").symlink_to("second")
    (tmp_path / "..new").rename(tmp_path / "..data")

    assert [watch.has_changed(at) for at in (100.0, 101.0)] == [False, True]


def test_it_is_looked_at_from_time_to_time_only(config: Path, watch: ConfigWatch) -> None:
    assert not watch.has_changed(100.0)
    config.write_text("changed")

    assert watch.next_deadline() == 100.0 + WATCH_SECONDS
    assert not any(watch.has_changed(100.0 + WATCH_SECONDS * part / 10) for part in range(10))


def test_where_nobody_asked_for_it_it_is_not_looked_at(config: Path) -> None:
    watch = ConfigWatch(config, is_wanted=False)
    config.write_text("changed")

    assert watch.next_deadline() == float("inf")
    assert not any(watch.has_changed(at) for at in (1e6, 2e6, 3e6))
