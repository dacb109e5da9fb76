import errno
import mmap
import os
import signal
import stat
import struct
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from ebpf_userspace_exporter.supervisor.selection.labels import MAX_VALUE_CHARACTERS
from ebpf_userspace_exporter.web.file_cache import FileCache
from ebpf_userspace_exporter.web.file_cache import MetricFile as ReadableFile
from ebpf_userspace_exporter.worker.metric_file import (
    MetricFile,
    MetricFileError,
    NoSpaceError,
    Place,
    metric_key,
    read_metric_file,
    write_metric_file,
)

KEYS = [metric_key("calls", "calls_total", [("name", "x" * length), ("pid", "1")], "Calls.") for length in range(17)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counter_gc-01234567_42.db"


@pytest.fixture
def file(path: Path) -> Iterator[MetricFile]:
    file = MetricFile.create(path, group=None)
    yield file
    file.close()


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    directory = tmp_path / "tmpfs"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


def stock_entries(path: Path) -> dict[str, tuple[float, float]]:
    entries = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]  # it has no types
    return {key: (value, timestamp) for key, value, timestamp, _ in entries}


def test_a_key_keeps_the_order_of_its_labels() -> None:
    assert metric_key("f", "s", [("z", "1"), ("a", "2")], "H") == '["f","s",{"z":"1","a":"2"},"H"]'


def test_keys_of_every_length_are_read_alike_by_prometheus_client_and_by_us(path: Path, file: MetricFile) -> None:
    expected = {key: (number + 0.5, float(number)) for number, key in enumerate([*KEYS, '["ü","€"]'])}

    for key, (value, last) in expected.items():
        file.store([file.slot(key)], [value], [last])

    assert stock_entries(path) == expected
    assert read_metric_file(path) == expected


def test_a_new_series_is_zero_and_an_empty_file_has_none(path: Path, file: MetricFile) -> None:
    assert stock_entries(path) == read_metric_file(path) == {}

    file.slot("a")

    assert stock_entries(path) == read_metric_file(path) == {"a": (0.0, 0.0)}


def test_a_file_of_prometheus_client_is_read(path: Path) -> None:
    theirs = MmapedDict(str(path))  # type: ignore[no-untyped-call]  # it has no types
    for number, key in enumerate(KEYS):
        theirs.write_value(key, number, 1700000000.25)  # type: ignore[no-untyped-call]
    theirs.close()  # type: ignore[no-untyped-call]

    assert read_metric_file(path) == {key: (number, 1700000000.25) for number, key in enumerate(KEYS)}


def test_a_file_grows_in_place_and_slots_stay_valid(path: Path, file: MetricFile) -> None:
    inode = path.stat().st_ino
    slots = file.slots(f"key {number}" for number in range(2000))
    late = [file.slot(f"late {number}") for number in range(2000)]
    file.store([*slots, *late], range(4000), range(0, -4000, -1))

    assert path.stat().st_ino == inode
    assert list(read_metric_file(path).values()) == [(number, -number) for number in range(4000)]
    assert not file.damaged()


def test_a_reader_sees_the_group_bit_and_others_nothing(path: Path) -> None:
    group = 12345 if os.geteuid() == 0 else os.getegid()
    umask = os.umask(0o077)
    try:
        MetricFile.create(path, group=group).close()
    finally:
        os.umask(umask)

    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o640, group)


@pytest.mark.parametrize("is_link", [False, True], ids=["a file", "a link"])
def test_what_is_already_there_is_not_written_through(path: Path, tmp_path: Path, is_link: bool) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    if is_link:
        path.symlink_to(other)
    else:
        other.rename(path)

    with pytest.raises(MetricFileError, match="File exists"):
        MetricFile.create(path, group=None)

    assert path.read_text() == "precious"


def test_no_descriptor_is_left(path: Path) -> None:
    before = _open_descriptors()
    file = MetricFile.create(path, group=None)
    file.slots(f"key {number}" for number in range(1000))
    assert not any(os.get_inheritable(descriptor) for descriptor in _open_descriptors() - before)
    file.close()
    file.close()
    with pytest.raises(MetricFileError):
        MetricFile.create(path, group=None)
    read_metric_file(path)

    assert _open_descriptors() == before


def _open_descriptors() -> set[int]:
    listed = {int(each.name) for each in Path("/proc/self/fd").iterdir()}
    # The one that the listing itself was made with is closed by now.
    return {descriptor for descriptor in listed if Path(f"/proc/self/fd/{descriptor}").exists()}


def _overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="removed"),
        pytest.param(lambda path: os.truncate(path, 0), id="emptied"),
        pytest.param(lambda path: os.truncate(path, 100), id="cut"),
        pytest.param(lambda path: _overwrite(path, 0, b"\xff"), id="header overwritten"),
        pytest.param(lambda path: _overwrite(path, 13, b"?"), id="key overwritten"),
        pytest.param(lambda path: _overwrite(path, 8, b"\xff" * 4), id="length overwritten"),
        pytest.param(lambda path: path.write_bytes(os.urandom(4096)), id="noise"),
        pytest.param(lambda path: write_metric_file(path, {}, None), id="replaced"),
    ],
)
def test_damage_is_noticed(path: Path, file: MetricFile, damage: Callable[[Path], object]) -> None:
    file.store([file.slot("key")], [1.0], [1.0])
    assert not file.damaged()

    damage(path)

    assert file.damaged()


def test_publishing_and_storing_is_no_damage(path: Path, file: MetricFile) -> None:
    slot = file.slot("key")
    path.rename(path.with_suffix(".published"))
    file.store([slot], [2.0], [1.0])

    assert not file.damaged()


def test_a_concurrent_reader_never_sees_half_a_number(path: Path, file: MetricFile) -> None:
    """Two values that differ in every byte; any mixture of them is neither."""
    one, other = (struct.unpack("d", bytes([byte] * 8))[0] for byte in (0x11, 0x66))
    file.slot("x")  # so that the number is not at the start of a cache line
    slot = file.slot("key")
    file.store([slot], [one], [one])
    ready, say_ready = os.pipe()
    reader = os.fork()
    if reader == 0:
        status = 3
        try:
            status = _read_until_nan(path, slot, (one, other), say_ready)
        finally:
            os._exit(status)
    os.close(say_ready)
    assert os.read(ready, 1) == b"r"
    os.close(ready)
    for _ in range(400_000):
        file.store([slot], [one], [one])
        file.store([slot], [other], [other])
    file.store([slot], [float("nan")], [0.0])

    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0


def _read_until_nan(path: Path, slot: Place, allowed: tuple[float, float], say_ready: int) -> int:
    """In the reader: return 0 if all is well, 1 for a torn value, 2 if the writer never ends."""
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        numbers, index = memoryview(mapped).cast("d"), slot.start // 8
        os.write(say_ready, b"r")
        try:
            for _ in range(200_000_000):
                number = numbers[index]
                if number not in allowed:
                    return 1 if number == number else 0  # noqa: PLR0124 - not a number: the end
        finally:
            numbers.release()
    return 2


def test_a_writer_killed_at_any_moment_leaves_a_pair_that_belongs_together(path: Path, file: MetricFile) -> None:
    slot = file.slot("key")
    for killed in range(1, 40):
        file.store([slot], [0.0], [0.0])
        writer = os.fork()
        if writer == 0:
            try:
                for number in range(100_000_000):
                    file.store([slot], [number], [number])
            finally:
                os._exit(1)
        deadline = time.monotonic() + 60
        while read_metric_file(path)["key"][0] < 1000 * killed and time.monotonic() < deadline:
            pass
        os.kill(writer, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == -signal.SIGKILL

        value, last = read_metric_file(path)["key"]
        assert value == last


def test_a_full_tmpfs_is_an_error_and_leaves_the_file_as_it_was(small_tmpfs: Path) -> None:
    path = small_tmpfs / "counter.db"
    file = MetricFile.create(path, group=None)
    try:
        placed = _fill(file)
        with pytest.raises(NoSpaceError, match=r"counter\.db: No space left on device"):
            file.slot("x" * 200)
        with pytest.raises(NoSpaceError):
            file.slots(["a", "b", "x" * 4096])

        assert 200 < placed < 300, "a file takes what it needs when twice as much cannot be had"
        assert len(read_metric_file(path)) == placed
        assert not file.damaged()
        assert path.stat().st_size == 48 << 10
        with pytest.raises(NoSpaceError):
            MetricFile.create(small_tmpfs / "other.db", group=None)
        with pytest.raises(NoSpaceError):
            write_metric_file(small_tmpfs / "other.own", {"key": (1.0, 0.0)}, None)
        assert [each.name for each in small_tmpfs.iterdir()] == ["counter.db"]
    finally:
        file.close()


def _fill(file: MetricFile) -> int:
    for placed in range(2000):
        try:
            file.slot(f"{placed:0200}")
        except NoSpaceError:
            return placed
    return 2000


def test_a_whole_file_takes_the_place_even_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "gauge_supervisor.own"
    for name in (path.name, f"{path.name}.tmp"):
        (tmp_path / name / "deep").mkdir(parents=True)

    write_metric_file(path, {"a": (1.0, 0.0)}, None)

    assert read_metric_file(path) == {"a": (1.0, 0.0)}
    assert os.listdir(tmp_path) == [path.name]


def test_a_whole_file_replaces_the_one_before_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "gauge_supervisor.own"
    (tmp_path / "gauge_supervisor.own.tmp").write_text("left by a crash")
    write_metric_file(path, {"a": (1.0, 0.0)}, None)
    with path.open("rb") as reader:
        write_metric_file(path, {"b": (2.5, 3.0), "c": (float("inf"), 0.0)}, None)

        assert read_metric_file(reader.fileno()) == {"a": (1.0, 0.0)}
    assert read_metric_file(path) == {"b": (2.5, 3.0), "c": (float("inf"), 0.0)}
    assert stock_entries(path) == read_metric_file(path)
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_whole_file_is_written_below_a_directory_descriptor(tmp_path: Path) -> None:
    directory_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        write_metric_file("gauge_supervisor.own", {"a": (1.0, 0.0)}, None, directory_fd=directory_fd)
    finally:
        os.close(directory_fd)

    assert read_metric_file(tmp_path / "gauge_supervisor.own") == {"a": (1.0, 0.0)}


def _header(used: int) -> bytes:
    return struct.pack("i4x", used)


def _entry(length: int, key: bytes) -> bytes:
    return struct.pack("i", length) + key + struct.pack("dd", 1.0, 2.0)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x10\0", id="half a header"),
        pytest.param(bytes(4096), id="zeros"),
        pytest.param(_header(4096), id="used beyond the end"),
        pytest.param(_header(-8) + bytes(100), id="negative used"),
        pytest.param(_header(13) + bytes(100), id="odd used"),
        pytest.param(_header(16) + bytes(8), id="an entry without room"),
        pytest.param(_header(32) + _entry(-4, b"abcd"), id="negative key length"),
        pytest.param(_header(32) + _entry(0x7FFFFFFF, b"abcd"), id="huge key length"),
        pytest.param(_header(32) + _entry(3, b"abc?"), id="no padding"),
        pytest.param(_header(32) + _entry(2, b"\xff\xff  "), id="key is no UTF-8"),
        pytest.param(_header(56) + 2 * _entry(3, b"abc "), id="one key twice"),
        pytest.param(_header(40) + _entry(3, b"abc ") + bytes(8), id="torn second entry"),
    ],
)
def test_what_is_no_metric_file_is_an_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(MetricFileError, match=path.name):
        read_metric_file(path)


def test_a_metric_file_with_single_bytes_changed_is_read_or_refused(path: Path) -> None:
    write_metric_file(path, dict.fromkeys(KEYS[:3], (1.0, 1.0)), None)
    good = path.read_bytes()

    for position in range(len(good)):
        for byte in (0x00, 0x7F, 0xFF):
            path.write_bytes(good[:position] + bytes([byte]) + good[position + 1 :])
            try:
                read_metric_file(path)
            except MetricFileError:
                continue


def test_a_missing_file_a_directory_a_link_and_a_pipe_are_errors(path: Path, tmp_path: Path) -> None:
    link, pipe, target = tmp_path / "link", tmp_path / "pipe", tmp_path / "target"
    write_metric_file(target, {}, None)
    link.symlink_to(target)
    os.mkfifo(pipe)

    for source in (path, tmp_path, link, pipe):
        with pytest.raises(MetricFileError):
            read_metric_file(source)


def test_errors_name_the_file_and_the_cause(path: Path) -> None:
    with pytest.raises(MetricFileError, match=f"{path.name}: {os.strerror(errno.ENOENT)}"):
        read_metric_file(path)


def test_a_reader_takes_the_largest_file_that_is_written(path: Path) -> None:
    file = MetricFile.create(path, group=None)
    keys = (
        metric_key("calls", "calls_total", [("number", str(each)), ("text", "x" * 60_000)], "") for each in range(2000)
    )
    with pytest.raises(NoSpaceError):
        deque(map(file.slot, keys), maxlen=0)
    file.close()

    [read] = FileCache(path.parent).read()

    assert isinstance(read, ReadableFile), read
    assert len(read.values[0]) > 1000


def test_a_reader_takes_the_longest_texts_that_a_target_can_choose(path: Path) -> None:
    labels = [(f"variable_{number}", "\N{GRINNING FACE}" * MAX_VALUE_CHARACTERS) for number in range(20)]
    write_metric_file(path, {metric_key("calls", "calls_total", labels, ""): (1.0, 1.0)}, None)

    [read] = FileCache(path.parent).read()

    assert isinstance(read, ReadableFile), read
