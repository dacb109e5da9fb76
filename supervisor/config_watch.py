"""Notices that the probe config is another one, however it was put in place."""

from math import inf
from pathlib import Path

WATCH_SECONDS = 1.0

_Stamp = tuple[int, int, int, int, int]


class ConfigWatch:
    """Looks at a file every WATCH_SECONDS.

    It is asked for and not waited for with inotify: a ConfigMap is changed by a link in another folder, and an editor
    may put a new file in the place of the old one.
    """

    def __init__(self, path: Path, *, is_wanted: bool) -> None:
        self._path = path
        self._taken = self._before = _stamp(path)
        self._next_look = 0.0 if is_wanted else inf

    def has_changed(self, now: float) -> bool:
        """Return whether the file has changed since it was last taken, and not any more since the look before.

        A file that is being written is so left alone, and one that is not there keeps what was read in force.
        """
        if now < self._next_look:
            return False
        self._next_look = now + WATCH_SECONDS
        before, self._before = self._before, _stamp(self._path)
        return self._before is not None and self._before == before and self._before != self._taken

    def take(self) -> None:
        """Take note that the file is about to be read."""
        self._taken = self._before = _stamp(self._path)

    def next_deadline(self) -> float:
        """Return when to look again."""
        return self._next_look


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
