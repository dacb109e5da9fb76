"""Opens the metric files of one moment, though the supervisor puts several of them in each other's place as one."""

import errno
import os
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

EPOCH = "epoch"

_NUMBER = struct.Struct("=Q")
_ENDINGS = (".db", ".own")
_SUPERVISORS = "_supervisor.own"
_ATTEMPTS = 50
_PAUSE_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file by its name; without a descriptor where it could not be opened, which `error` says."""

    name: str
    descriptor: int
    error: OSError | None = None


@contextmanager
def open_files(state_directory: Path) -> Iterator[list[OpenFile]]:
    """Open every metric file, the supervisor's first, then by name; OSError where the directory cannot be read.

    While the number in the file `epoch` is odd, files are being replaced: of those opened then some might be the old
    ones and some the new. What is open can be read at leisure, whatever becomes of its name. After a number of
    attempts, which take a fraction of a second, whatever is there is taken.
    """
    directory = os.open(state_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files = _open_in_one_epoch(directory)
    finally:
        os.close(directory)
    try:
        yield files
    finally:
        _close(files)


def _open_in_one_epoch(directory: int) -> list[OpenFile]:
    files: dict[int, OpenFile] = {}
    for _ in range(_ATTEMPTS):
        epoch = _epoch(directory)
        files = _open_all(directory, files)
        if epoch % 2 == 0 and _epoch(directory) == epoch:
            return list(files.values())
        time.sleep(_PAUSE_SECONDS)
    return list(_open_all(directory, files).values())


def _open_all(directory: int, before: dict[int, OpenFile]) -> dict[int, OpenFile]:
    """Return all files by inode; those open from `before` are not opened again, whatever their names are now.

    A thousand targets that leave one after another would else change something during each attempt.
    """
    # The supervisor's own first: where two files claim one name, the first has it, and own names are reserved.
    with os.scandir(directory) as entries:
        wanted = [(entry.name, entry.inode()) for entry in entries if entry.name.endswith(_ENDINGS)]
    wanted.sort(key=lambda each: (not each[0].endswith(_SUPERVISORS), each[0]))
    files: dict[int, OpenFile] = {}
    for name, inode in wanted:
        if inode in files:
            continue  # it was renamed while we listed
        known = before.pop(inode, None)
        if known is not None and known.error is None:
            files[inode] = OpenFile(name, known.descriptor)
            continue
        # O_NONBLOCK: opening a FIFO of that name would otherwise wait for a writer for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            files[inode] = OpenFile(name, os.open(name, flags, dir_fd=directory))
        except FileNotFoundError:
            # The supervisor removes a target's files when its grace is over: those series have ended.
            continue
        except OSError as error:
            if error.errno == errno.EMFILE and files:
                _close([*files.values(), *before.values()])
                raise OSError(errno.EMFILE, f"{len(wanted)} metric files: raise LimitNOFILE") from error
            files[inode] = OpenFile(name, -1, error)
    _close(before.values())
    return files


def _close(files: Iterable[OpenFile]) -> None:
    for file in files:
        if file.descriptor >= 0:
            os.close(file.descriptor)


def _epoch(directory: int) -> int:
    """Return the number; 0 where there is none, as in a directory that nobody changes."""
    try:
        descriptor = os.open(EPOCH, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return 0
    try:
        content = os.pread(descriptor, _NUMBER.size, 0)
    finally:
        os.close(descriptor)
    return int(_NUMBER.unpack(content)[0]) if len(content) == _NUMBER.size else 0
