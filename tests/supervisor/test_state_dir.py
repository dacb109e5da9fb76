"""The state directory on a real file system."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor.state_dir import LOCK_CONTENT, StateDir, StateDirError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives directories to other users")

NOBODY = 65534


def test_directory_is_made_for_us_and_the_webs_group_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state_dir = StateDir(path, group=NOBODY)
    status = path.stat()

    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o750, 0, NOBODY)
    assert {stat.S_IMODE(state_dir.scratch(name).stat().st_mode) for name in ("headers", "build")} == {0o700}
    state_dir.close()
    assert not path.exists()


def test_what_an_exporter_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o750)
    ours = ["counter_gc-0a1b2c3d_17.db", "histogram_gc-0a1b2c3d_17.db.3.tmp", "gauge_supervisor.own"]
    theirs = ["notes.txt", "counter_17.db", "other.db"]
    for name in ours + theirs:
        (path / name).write_bytes(b"x")
    (path / "counter_gc-0a1b2c3d_18.db" / "deep").mkdir(parents=True)
    (path / "control.sock").mkdir()
    (path / "build" / "deep").mkdir(parents=True)
    (path / "build" / "deep" / "file").write_bytes(b"x")
    (path / "headers").symlink_to(tmp_path)
    (tmp_path / "precious").write_bytes(b"x")
    (path / "lock").write_bytes(LOCK_CONTENT)

    state_dir = StateDir(path, group=None)
    assert sorted(os.listdir(path)) == sorted([*theirs, "build", "headers", "lock"])
    assert os.listdir(path / "build") == []
    assert not (path / "headers").is_symlink()
    assert (tmp_path / "precious").exists()
    state_dir.close()
    assert sorted(os.listdir(path)) == sorted(theirs)


@pytest.mark.parametrize("name", ["build", "lock", "notes.txt", "control.sock"])
def test_directory_with_somebody_elses_content_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    (path / name).write_bytes(b"precious")

    with pytest.raises(
        StateDirError, match="not empty, and no exporter's state directory; choose a new or empty folder"
    ):
        StateDir(path, group=NOBODY)

    assert (path / name).read_bytes() == b"precious"
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o755, 0)


def test_stale_metric_files_alone_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    (path / "counter_gc-0a1b2c3d_17.db").write_bytes(b"x")

    StateDir(path, group=NOBODY).close()

    assert os.listdir(path) == []


def test_directory_that_was_there_gets_its_mode_and_group_back(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o755)

    state_dir = StateDir(path, group=NOBODY)
    during = path.stat()
    state_dir.close()

    assert (stat.S_IMODE(during.st_mode), during.st_gid) == (0o750, NOBODY)
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o755, 0)


def test_second_exporter_is_refused(tmp_path: Path) -> None:
    first = StateDir(tmp_path / "state", group=None)
    try:
        with pytest.raises(StateDirError, match="another exporter is running with this state directory"):
            StateDir(tmp_path / "state", group=None)
    finally:
        first.close()


def test_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(0o775)

    with pytest.raises(StateDirError, match=r"mode 0775 lets others write; choose another"):
        StateDir(path, group=None)


def test_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)

    with pytest.raises(StateDirError, match=r"owned by uid 65534, expected 0"):
        StateDir(path, group=None)


def test_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "real")

    with pytest.raises(StateDirError, match="expected a directory, not a link"):
        StateDir(tmp_path / "state", group=None)


def test_directory_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(StateDirError, match="cannot make it: No such file or directory"):
        StateDir(tmp_path / "missing" / "state", group=None)


@pytest.mark.parametrize("attempt", range(3))
def test_refusal_leaks_no_descriptor(tmp_path: Path, attempt: int) -> None:
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(0o777)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(StateDirError):
        StateDir(path, group=None)

    assert set(os.listdir("/proc/self/fd")) == before


def test_path_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    """The socket itself would only say that at the end, as an exception."""
    with pytest.raises(StateDirError, match=r"too long for the socket in it: \d{3} bytes, the system takes 107"):
        StateDir(tmp_path / ("x" * 100), group=None)


def test_what_the_system_refuses_is_told_and_leaks_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "state"
    (path / "lock").mkdir(parents=True)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(StateDirError, match="choose a new or empty folder"):
        StateDir(path, group=None)

    assert set(os.listdir("/proc/self/fd")) == before


def test_directory_that_somebody_has_removed_is_left_without_a_word_too_many(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state_dir = StateDir(path, group=None)
    shutil.rmtree(path)
    state_dir.close()

    assert not path.exists()
