"""Files that are no config at all: one line, at once."""

import os
import random
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from ebpf_userspace_exporter.config.errors import ConfigError
from ebpf_userspace_exporter.config.load import load_config

SECONDS = 20
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
NOISE = random.Random(3).randbytes(1 << 16)


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    """Interrupt what waits, as it would for the writer of a FIFO."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def problem_of(path: Path) -> str:
    """Return the one line that refuses the file, without its path."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, trusted=False)
    assert len(caught.value.problems) == 1
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(str(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", ':1: is empty; expected "programs:" and a list', id="empty"),
        pytest.param(b"\n" * 1000, ':1: is empty; expected "programs:" and a list', id="empty lines"),
        pytest.param(b"# x\n" * 2_500_000, ": is larger than 1048576 bytes; is this a config?", id="10 MB of comments"),
        pytest.param(b"\0" * 10_000_000, ": is larger than 1048576 bytes; is this a config?", id="10 MB of nothing"),
        pytest.param(
            BOMB.encode(), ":1: more than 50000 nodes, aliases counted; is this a config?", id="aliases of aliases"
        ),
        pytest.param(NOISE, ":1: byte 0xfd is not UTF-8", id="noise"),
        pytest.param(b"\x7fELF\x02\x01\x01" + bytes(100), ":1: character U+007F is not allowed in YAML", id="program"),
        pytest.param(b"\x1f\x8b\x08" + NOISE, ":1: byte 0x8b is not UTF-8", id="compressed"),
        pytest.param("programs:\n".encode("utf-16"), ":1: byte 0xff is not UTF-8", id="UTF-16"),
        pytest.param(b"programs:\n  - name: caf\xe9\n", ":2: byte 0xe9 is not UTF-8", id="Latin 1"),
    ],
)
def test_a_file_of_anything_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "programs.yaml"
    path.write_bytes(content)

    assert problem_of(path) == expected


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(fifo, ": is a pipe; expected a file", id="FIFO"),
        pytest.param(Path.mkdir, ": is a directory; expected a file", id="directory"),
        pytest.param(loop, ": cannot be opened: Too many levels of symbolic links", id="link to itself"),
        pytest.param(dangling, ": no such file", id="link to nothing"),
    ],
)
def test_what_is_no_file_is_one_line_and_never_waited_for(
    tmp_path: Path, make: Callable[[Path], None], expected: str
) -> None:
    path = tmp_path / "programs.yaml"
    make(path)

    assert problem_of(path) == expected


def test_a_device_and_a_path_to_nothing_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert problem_of(tmp_path / "missing.yaml") == ": no such file"
    assert problem_of(Path("/dev/null")) == ": is a device; expected a file"
    assert problem_of(tmp_path / "file" / "x") == ": cannot be opened: Not a directory"


def test_a_path_with_a_line_break_does_not_break_the_message(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "a\nb") == f"{tmp_path}/a\\nb: no such file"


@pytest.mark.skipif(os.geteuid() != 0, reason="drops root")
def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.touch(stat.S_IRUSR)
    os.seteuid(65534)
    try:
        assert problem_of(secret) == ": may not be read by user 65534"
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("programs:\n" + "- {}\n" * 16_000, id="empty programs"),
        pytest.param("programs:\n- {" + "".join(f"key{n}: x, " for n in range(16_000)) + "}\n", id="unknown keys"),
        pytest.param("programs:\n- attachment: {not: [" + "{}, " * 16_000 + "]}\n", id="empty selectors"),
    ],
)
def test_a_file_of_nothing_but_problems_is_refused_at_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "programs.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_config(path, trusted=False)

    assert len(caught.value.problems) > 16_000
    assert len(str(caught.value).split("\n")) == len(caught.value.problems)
