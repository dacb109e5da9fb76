"""Which files a scrape reads: those of one moment."""

import os
import struct
import threading
from pathlib import Path

import pytest

from ebpf_userspace_exporter.web.open_files import open_files


def set_epoch(folder: Path, number: int) -> None:
    (folder / "epoch").write_bytes(struct.pack("=Q", number))


def names(folder: Path) -> list[str]:
    with open_files(folder) as files:
        return [file.name for file in files]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_metric_files_are_opened_own_ones_first_and_nothing_else(tmp_path: Path) -> None:
    for name in ("counter_b.db", "counter_a.db", "gauge_supervisor.own", "counter_a.db.1.tmp", "epoch", "lock"):
        (tmp_path / name).write_bytes(b"")

    assert names(tmp_path) == ["gauge_supervisor.own", "counter_a.db", "counter_b.db"]


def test_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / "counter_a.db").write_bytes(b"x")
    before = descriptors()

    with open_files(tmp_path) as files:
        assert os.read(files[0].descriptor, 10) == b"x"

    assert descriptors() == before


def test_what_is_open_can_be_read_though_it_was_removed(tmp_path: Path) -> None:
    path = tmp_path / "counter_a.db"
    path.write_bytes(b"x")
    with open_files(tmp_path) as files:
        path.unlink()
        assert os.read(files[0].descriptor, 10) == b"x"


def test_files_are_opened_anew_until_nobody_changes_them(tmp_path: Path) -> None:
    set_epoch(tmp_path, 1)
    (tmp_path / "counter_old.db").write_bytes(b"")

    def finish() -> None:
        (tmp_path / "counter_old.db").rename(tmp_path / "counter_new.db")
        set_epoch(tmp_path, 2)

    timer = threading.Timer(0.005, finish)
    timer.start()
    found = names(tmp_path)
    timer.join()

    assert found == ["counter_new.db"]


def test_a_change_that_never_ends_is_not_waited_for(tmp_path: Path) -> None:
    set_epoch(tmp_path, 1)
    (tmp_path / "counter_old.db").write_bytes(b"")
    before = descriptors()

    assert names(tmp_path) == ["counter_old.db"]
    assert descriptors() == before


def test_what_is_open_already_is_not_opened_again_where_others_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a reader of a thousand files would not get through between two changes."""
    set_epoch(tmp_path, 1)
    for name in ("counter_a.db", "counter_b.db"):
        (tmp_path / name).write_bytes(b"x")
    opened: list[str] = []
    real_open = os.open

    def open_and_note(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        if len(opened) == 2 and path == "epoch":
            (tmp_path / "counter_a.db").rename(tmp_path / "counter_c.db")
            (tmp_path / "counter_b.db").unlink()
            opened.append("changed")
        opened.extend([path] if str(path).startswith("counter") else [])
        return real_open(path, flags, dir_fd=dir_fd)

    before = descriptors()
    monkeypatch.setattr(os, "open", open_and_note)
    with open_files(tmp_path) as files:
        assert [(file.name, os.read(file.descriptor, 9)) for file in files] == [("counter_c.db", b"x")]

    assert opened == ["counter_a.db", "counter_b.db", "changed"]
    assert descriptors() == before


def test_a_file_that_cannot_be_opened_is_told_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "counter_a.db").symlink_to("/etc/passwd")

    with open_files(tmp_path) as files:
        assert [(file.name, file.descriptor, type(file.error)) for file in files] == [("counter_a.db", -1, OSError)]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_files(tmp_path / "none"):
        pass


@pytest.mark.parametrize("content", [b"", b"\1"], ids=["empty", "cut"])
def test_an_epoch_that_is_none_is_taken_for_rest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "epoch").write_bytes(content)
    (tmp_path / "counter_a.db").write_bytes(b"")

    assert names(tmp_path) == ["counter_a.db"]
