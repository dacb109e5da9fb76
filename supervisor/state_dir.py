"""The state directory: ours alone, or we do not start."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

from ebpf_userspace_exporter.worker.file_names import discard, is_ours

logger = structlog.get_logger()

CONTROL_SOCKET = "control.sock"
MAX_SOCKET_PATH_BYTES = 107  # sun_path has 108, the last for the NUL
EPOCH = "epoch"
LOCK = "lock"
LOCK_CONTENT = b"state directory of ebpf-userspace-exporter\n"
SCRATCH_DIRECTORIES = ("headers", "build")


class StateDirError(Exception):
    """The state directory cannot be used; the message says what to do."""


class StateDir:
    """An open, locked, clean state directory; the web's group may read it, nobody else."""

    def __init__(self, path: Path, *, group: int | None) -> None:
        """Make or take over `path`; StateDirError if it is not ours alone or another exporter has it."""
        self.path = path
        _check_length(path)
        self._made = _make(path)
        with _os_errors(path), contextlib.ExitStack() as undo:
            self.descriptor = _open(path)
            undo.callback(os.close, self.descriptor)
            self._check()
            self._check_content()
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = os.open(LOCK, flags, mode=0o600, dir_fd=self.descriptor)
            undo.callback(os.close, self._lock)
            self._take_lock()
            os.pwrite(self._lock, LOCK_CONTENT, 0)
            self._found = os.fstat(self.descriptor)
            self.clean()
            os.fchmod(self.descriptor, 0o750)
            if group is not None:
                os.fchown(self.descriptor, -1, group)
            for name in SCRATCH_DIRECTORIES:
                os.mkdir(name, 0o700, dir_fd=self.descriptor)
            undo.pop_all()

    def scratch(self, name: str) -> Path:
        """Return a folder that only the supervisor's user can enter."""
        return self.path / name

    def clean(self) -> None:
        """Remove what an exporter leaves in a state directory, by its own names, and nothing else."""
        for name in os.listdir(self.descriptor):  # noqa: PTH208 - by descriptor: the path may be another's by now
            if is_ours(name) or name in (CONTROL_SOCKET, EPOCH, *SCRATCH_DIRECTORIES):
                discard(name, self.descriptor)

    def close(self) -> None:
        """Leave nothing behind; the directory itself goes too, if we made it and nobody put anything in."""
        try:
            self.clean()
            os.unlink(LOCK, dir_fd=self.descriptor)
        except OSError as error:  # somebody was faster, or has taken our right to it: not a reason to end otherwise
            logger.warning("the state directory is not cleaned", path=str(self.path), error=str(error))
        os.close(self._lock)
        if not self._made:
            with contextlib.suppress(OSError):
                os.fchown(self.descriptor, -1, self._found.st_gid)
                os.fchmod(self.descriptor, stat.S_IMODE(self._found.st_mode))
        os.close(self.descriptor)
        if self._made:
            try:
                self.path.rmdir()
            except OSError:
                logger.warning("the state directory is left: it is not empty", path=str(self.path))

    def _check(self) -> None:
        status = os.fstat(self.descriptor)
        if status.st_uid != os.geteuid():
            raise StateDirError(
                f"{self.path}: owned by uid {status.st_uid}, expected {os.geteuid()}; choose another --state-dir"
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StateDirError(
                f"{self.path}: mode {stat.S_IMODE(status.st_mode):04o} lets others write; choose another --state-dir"
            )

    def _check_content(self) -> None:
        """Refuse a directory that is somebody's: what has our names in it would be removed."""
        names = os.listdir(self.descriptor)  # noqa: PTH208 - as above
        if all(map(is_ours, names)):
            return
        with contextlib.suppress(OSError):
            lock = os.open(LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.descriptor)
            try:
                if os.read(lock, len(LOCK_CONTENT) + 1) == LOCK_CONTENT:
                    return
            finally:
                os.close(lock)
        raise StateDirError(
            f"{self.path}: not empty, and no exporter's state directory; choose a new or empty folder (--state-dir)"
        )

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateDirError(
                f"{self.path}: another exporter is running with this state directory; "
                "stop it, or choose another --state-dir"
            ) from error


def _check_length(path: Path) -> None:
    socket_bytes = len(os.fsencode(path / CONTROL_SOCKET))
    if socket_bytes > MAX_SOCKET_PATH_BYTES:
        raise StateDirError(
            f"{path}: too long for the socket in it: {socket_bytes} bytes, the system takes {MAX_SOCKET_PATH_BYTES}; "
            "choose another --state-dir"
        )


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateDirError(f"{path}: {error.strerror}; choose another --state-dir") from error


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise StateDirError(f"{path}: {error.strerror}; expected a directory, not a link (--state-dir)") from error


def _make(path: Path) -> bool:
    try:
        path.mkdir(mode=0o750)
    except FileExistsError:
        return False
    except OSError as error:
        raise StateDirError(f"{path}: cannot make it: {error.strerror}; choose another --state-dir") from error
    return True
