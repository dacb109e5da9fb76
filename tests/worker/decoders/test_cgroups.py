"""The cgroups of a real cgroup2 hierarchy, and of folders that stand in for ones that a test cannot mount."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.decoders import cgroups
from ebpf_userspace_exporter.worker.decoders.cgroups import Cgroups


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def inode(folder: Path) -> int:
    return folder.stat().st_ino


@pytest.fixture
def mount_table(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes a mountinfo with cgroup2 mounts at these folders, among others."""

    def write(*folders: Path) -> Path:
        table = tmp_path / "mountinfo"
        lines = ["23 1 0:21 / /proc rw - proc proc rw", "40 31 0:37 / /nowhere rw,relatime - cgroup cgroup rw,cpu"]
        lines += [f"4{n} 31 0:38 / {folder} rw shared:9 - cgroup2 cgroup2 rw" for n, folder in enumerate(folders)]
        table.write_text("\n".join(lines) + "\n")
        return table

    return write


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """Yield a cgroup of version 2 with one below it."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    mount = next((line.split()[4] for line in mounts if " - cgroup2 " in line), None)
    if mount is None:
        pytest.skip("no cgroup2 is mounted")
    folder = Path(mount) / f"decoders-{os.getpid()}"
    (folder / "in ner").mkdir(parents=True)
    yield folder
    (folder / "in ner").rmdir()
    folder.rmdir()


@pytest.mark.bpf
def test_a_cgroup_has_its_path_below_the_mount(cgroup: Path) -> None:
    reader = Cgroups()

    assert reader.path(inode(cgroup)) == f"/{cgroup.name}"
    assert reader.path(inode(cgroup / "in ner")) == f"/{cgroup.name}/in ner"
    assert reader.path(inode(cgroup.parent)) == "/"
    assert reader.path(inode(cgroup / "cgroup.procs")) is None


@pytest.mark.bpf
def test_the_path_is_the_one_that_a_process_has_in_proc(cgroup: Path) -> None:
    own = Path("/proc/self/cgroup").read_text().splitlines()
    before = next(line.removeprefix("0::") for line in own if line.startswith("0::"))
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    try:
        inside = Path("/proc/self/cgroup").read_text().splitlines()
        assert f"0::{Cgroups().path(inode(cgroup))}" in inside
    finally:
        (cgroup.parent / before.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))


def test_without_a_cgroup2_there_are_no_paths(mount_table: Callable[..., Path]) -> None:
    assert Cgroups(mount_table()).path(1) is None


def test_a_new_cgroup_is_found_once_the_last_look_is_long_enough_ago(
    tmp_path: Path, mount_table: Callable[..., Path]
) -> None:
    top, clock = tmp_path / "top", Clock()
    (top / "old").mkdir(parents=True)
    reader = Cgroups(mount_table(top), clock)
    assert reader.path(inode(top / "old")) == "/old"

    (top / "new").mkdir()
    clock.now += 0.1
    assert reader.path(inode(top / "new")) is None

    clock.now += 0.11
    assert reader.path(inode(top / "new")) == "/new"


def test_a_known_cgroup_keeps_its_path_when_it_is_gone(tmp_path: Path, mount_table: Callable[..., Path]) -> None:
    top, clock = tmp_path / "top", Clock()
    (top / "old").mkdir(parents=True)
    reader, number = Cgroups(mount_table(top), clock), inode(top / "old")
    assert reader.path(number) == "/old"

    (top / "old").rmdir()
    clock.now += 10

    assert reader.path(number) == "/old"


@pytest.mark.parametrize("part_first", [True, False])
def test_of_two_mounts_the_one_with_the_longer_paths_counts(
    part_first: bool, tmp_path: Path, mount_table: Callable[..., Path]
) -> None:
    """A container has its own part of the hierarchy, and the host's whole one where it was given that too."""
    whole, part = tmp_path / "whole", tmp_path / "whole" / "pod"
    (part / "app").mkdir(parents=True)
    reader = Cgroups(mount_table(*((part, whole) if part_first else (whole, part))))

    assert [reader.path(inode(folder)) for folder in (whole, part, part / "app")] == ["/", "/pod", "/pod/app"]


def test_a_name_that_is_no_utf8_is_escaped(tmp_path: Path, mount_table: Callable[..., Path]) -> None:
    folder = tmp_path / "top" / os.fsdecode(b"a\xff")
    folder.mkdir(parents=True)

    assert Cgroups(mount_table(tmp_path / "top")).path(inode(folder)) == r"/a\xff"


def test_no_more_cgroups_are_kept_than_there_is_room_for(
    tmp_path: Path, mount_table: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "_MAX_CGROUPS", 10)
    folders = [tmp_path / "top" / str(number) for number in range(20)]
    for folder in folders:
        folder.mkdir(parents=True)
    reader = Cgroups(mount_table(tmp_path / "top"))

    assert sum(reader.path(inode(folder)) is not None for folder in folders) == 9  # and the top


def test_a_mount_that_cannot_be_read_is_none(tmp_path: Path, mount_table: Callable[..., Path]) -> None:
    (tmp_path / "top").mkdir()
    reader = Cgroups(mount_table(tmp_path / "gone", tmp_path / "top"))

    assert reader.path(inode(tmp_path / "top")) == "/"
