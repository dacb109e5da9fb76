"""The very file that is mapped is opened, or an error says why not."""

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.image import ProbedFile
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import (
    MappedFile,
    TargetGone,
    find_mapped,
    fits,
    identity,
    mapped_files,
    open_executable,
    open_mapped,
    open_probed,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes are looked into")

# Maps the files named by its arguments, says so, and waits.
MAPPER = """
import mmap, os, sys
held = [mmap.mmap(os.open(path, os.O_RDONLY), 0, access=mmap.ACCESS_READ) for path in sys.argv[1:]]
print("mapped", flush=True)
sys.stdin.read()
"""
PYTHON = os.path.realpath("/usr/bin/python3")

Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[bytes]] = []

    def start(*paths: Path, user: int | None = None) -> int:
        command = [PYTHON, "-c", MAPPER, *map(str, paths)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=user)
        running.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"mapped\n"
        return process.pid

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=20)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that every user can look into, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def replace(path: Path, text: str) -> None:
    write(path.with_name("new"), text).replace(path)


def content(fd: int) -> str:
    with os.fdopen(fd) as file:
        return file.read()


def mapped_at(pid: int, path: Path) -> MappedFile:
    [mapped] = [mapped for mapped in mapped_files(pid) if mapped.path == str(path)]
    return mapped


def test_every_mapped_file_is_listed_once_with_an_executable_range(start: Start, folder: Path) -> None:
    mapped = mapped_files(start(write(folder / "data", "data")))

    assert len({(file.device, file.inode) for file in mapped}) == len(mapped)
    assert {Path(file.path).name: file.is_executable for file in mapped}.items() >= {
        "data": False,
        Path(PYTHON).name: True,
        "libc.so.6": True,
    }.items()


def test_of_a_file_that_is_mapped_often_an_executable_range_is_found(folder: Path) -> None:
    code = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
held = [mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | (number % 2 and mmap.PROT_WRITE))
        for number in range(5000)]
held.append(mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC))
print("mapped", flush=True)
sys.stdin.read()
"""
    path = write(folder / "data", "data")
    with mapper(code, str(path)) as pid:
        [mapped] = [mapped for mapped in mapped_files(pid) if mapped.path == str(path)]

    assert mapped.is_executable


def test_a_process_that_has_mapped_more_than_can_be_read_in_time_is_refused(folder: Path) -> None:
    code = """
import mmap, os, sys
for name in sys.argv[2:]:
    os.mkdir(name)
    os.chdir(name)
fd = os.open("data", os.O_RDWR | os.O_CREAT)
os.write(fd, b"data")
held = [mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | (number % 2 and mmap.PROT_WRITE))
        for number in range(6000)]
print("mapped", flush=True)
sys.stdin.read()
"""
    with mapper(code, "", str(folder / ("x" * 250)), *["x" * 250] * 14) as pid, pytest.raises(AttachError) as caught:
        mapped_files(pid)

    assert "too many mappings" in str(caught.value)


@contextlib.contextmanager
def mapper(code: str, *arguments: str) -> Iterator[int]:
    """Run a Python that says when it has mapped everything; yield its pid."""
    process = subprocess.Popen(
        [PYTHON, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"mapped\n"
        yield process.pid
        process.communicate(timeout=20)


@pytest.mark.parametrize("name", ["two words", "new\nline", "it (deleted)", "ümlaut", "(deleted)"])
def test_odd_names_are_read_as_they_are(name: str, start: Start, folder: Path) -> None:
    pid = start(write(folder / name, name))

    [mapped] = [mapped for mapped in mapped_files(pid) if mapped.path.startswith(str(folder))]

    assert mapped.path == str(folder / name).removesuffix(" (deleted)")
    assert content(open_mapped(pid, mapped)) == name


@pytest.mark.parametrize("change", [Path.unlink, lambda path: replace(path, "new")], ids=["deleted", "replaced"])
def test_the_mapped_file_is_opened_also_when_its_path_leads_elsewhere(
    change: Callable[[Path], None], start: Start, folder: Path
) -> None:
    pid = start(write(folder / "data", "old"))
    change(folder / "data")

    assert content(open_mapped(pid, mapped_at(pid, folder / "data"))) == "old"


def test_descriptors_are_close_on_exec_and_none_is_left(start: Start, folder: Path) -> None:
    pid = start(write(folder / "data", "data"))
    before = sorted(os.listdir("/proc/self/fd"))

    fds = [open_mapped(pid, mapped_at(pid, folder / "data")), open_executable(pid)]

    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in fds:
        os.close(fd)
    assert sorted(os.listdir("/proc/self/fd")) == before


def as_nobody(action: Callable[[], object]) -> int:
    """Return the exit code of a child without capabilities: 0, or a place in Reason."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setuid(65534)
            action()
            code = 0
        except AttachError as error:
            code = 1 + list(Reason).index(error.reason)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_without_capabilities_the_file_is_found_by_its_path_and_checked(start: Start, folder: Path) -> None:
    pid = start(write(folder / "data", "old"), user=65534)
    mapped = mapped_at(pid, folder / "data")

    assert as_nobody(lambda: open_mapped(pid, mapped)) == 0
    replace(folder / "data", "new")
    assert as_nobody(lambda: open_mapped(pid, mapped)) == 1 + list(Reason).index(Reason.STALE_FILE)


def test_another_users_process_is_a_permission_error(start: Start, folder: Path) -> None:
    pid = start()

    assert as_nobody(lambda: mapped_files(pid)) == 1 + list(Reason).index(Reason.PERMISSION)
    assert as_nobody(lambda: open_executable(pid)) == 1 + list(Reason).index(Reason.PERMISSION)


def test_paths_are_those_of_the_target_in_its_own_root(tmp_path: Path) -> None:
    (tmp_path / "source.c").write_text(
        '#include <stdio.h>\nint main(void) { puts("up"); fflush(stdout); return getchar(); }'
    )
    subprocess.run(["gcc", "-static", "-o", tmp_path / "app", tmp_path / "source.c"], check=True, timeout=60)
    (tmp_path / "link").symlink_to("/app")

    process = subprocess.Popen(
        ["/app"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.chroot(tmp_path),  # noqa: PLW1509
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        mapped = mapped_files(process.pid)
        assert [file.path for file in mapped] == ["/app"]
        assert find_mapped(process.pid, "/link", mapped) == mapped[0]
        assert find_mapped(process.pid, "/../../link", mapped) == mapped[0]
        assert find_mapped(process.pid, str(tmp_path / "app"), mapped) is None
        process.communicate(b"x", timeout=20)


def test_an_image_file_is_opened_only_where_it_is_the_same_file(start: Start, folder: Path) -> None:
    pid = start(write(folder / "data", "data"), write(folder / "other", "other"))
    with (folder / "data").open() as file:
        probed = ProbedFile(str(folder / "data"), identity(file.fileno()))

    assert content(open_probed(pid, probed)) == "data"
    with pytest.raises(AttachError) as caught:
        open_probed(pid, ProbedFile(str(folder / "other"), probed.identity))
    assert caught.value.reason is Reason.STALE_FILE
    with pytest.raises(AttachError) as caught:
        open_probed(pid, ProbedFile("/nowhere", probed.identity))
    assert caught.value.reason is Reason.FILE_NOT_FOUND


def test_an_image_fits_where_all_its_files_are_mapped(start: Start, folder: Path) -> None:
    data = write(folder / "data", "data")
    first, second, without = start(data), start(data), start()
    with data.open() as file:
        library = ProbedFile(str(data), identity(file.fileno()))
    fd = open_executable(first)
    executable = ProbedFile(None, identity(fd))
    os.close(fd)

    assert fits([executable, library], second)
    assert fits([executable], without)
    assert not fits([executable, library], without)
    assert not fits([ProbedFile(None, library.identity)], second)
    write(data, "changed")
    assert not fits([executable, library], second)


def test_a_process_that_is_gone_is_an_outcome_of_its_own() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    gone: list[Callable[[], object]] = [
        lambda: mapped_files(process.pid),
        lambda: open_executable(process.pid),
        lambda: open_probed(process.pid, ProbedFile(None, probed)),
        lambda: fits([ProbedFile(None, probed)], process.pid),
        lambda: open_mapped(process.pid, MappedFile("/x", 1, 1, 0, mmap.PAGESIZE, 0, is_executable=True)),
    ]
    with Path(sys.executable).open("rb") as file:
        probed = identity(file.fileno())

    for look in gone:
        with pytest.raises(TargetGone):
            look()


def test_a_zombie_is_gone() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        with pytest.raises(TargetGone):
            mapped_files(process.pid)
