"""An open file is read as bytes are, and one that shrank is an error and no signal."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.elf import ElfError
from ebpf_userspace_exporter.worker.symbols.file_bytes import FileBytes

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


@pytest.fixture
def content(path: Path) -> Iterator[FileBytes]:
    content = FileBytes(os.open(path, os.O_RDONLY))
    yield content
    content.close()


@pytest.mark.parametrize(
    "span",
    [slice(0, 4), slice(100, 5000), slice(10_000, 20_000), slice(1 << 40, 1 << 41), slice(9, 3), slice(None, None)],
    ids=str,
)
def test_a_slice_is_that_of_the_bytes(span: slice, content: FileBytes) -> None:
    assert content[span] == CONTENT[span]
    assert len(content) == len(CONTENT)


def test_bytes_are_found_between_two_places_only(content: FileBytes) -> None:
    assert content.find(b"\1\2", 5, 1000) == CONTENT.find(b"\1\2", 5, 1000) == 257
    assert content.find(b"\1\2", 2, 258) == -1


def test_a_file_that_shrank_is_an_elf_error(path: Path, content: FileBytes) -> None:
    path.write_bytes(CONTENT[:100])

    assert content[:100] == CONTENT[:100]
    with pytest.raises(ElfError, match="shrank"):
        content[90:110]
