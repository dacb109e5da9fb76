"""What code a process has mapped, now or before, and the files that it came from, held open."""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from ebpf_userspace_exporter.worker.reasons import AttachError
from ebpf_userspace_exporter.worker.symbols.file_bytes import FileBytes
from ebpf_userspace_exporter.worker.target_files import (
    MappedFile,
    TargetGone,
    executable_in_maps,
    mapped_file,
    open_executable,
    open_mapped,
)

_MAX_RANGES = 1 << 16
_MAX_PAST_RANGES = 1 << 12
_MAX_FILES = 1 << 10


@dataclass(frozen=True, slots=True)
class CodeRange:
    """Executable addresses from `start` to `end`; where no file is mapped, `mapped` is None and `name` in brackets."""

    start: int
    end: int
    name: str
    mapped: MappedFile | None


class AddressSpace:
    """The executable ranges of one process; what is gone stays known until something else is in its place.

    Its files are opened at once, as they cannot be reached any more when the process has exited.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ranges: Sequence[CodeRange] = ()
        self._starts: Sequence[int] = ()
        self._contents: dict[tuple[int, int], FileBytes | None] = {}
        self._process: int | None = None
        with suppress(OSError):
            # Held, so that another process that gets this pid is not taken for the one that had it.
            self._process = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.refresh()

    @property
    def is_known(self) -> bool:
        """Whether the process could be looked at, ever."""
        return bool(self._ranges)

    def refresh(self) -> None:
        """Look again; of a process that is gone, or not ours to look at, everything stays as it was."""
        current = self._read()
        if not current:
            return
        past = [known for known in self._ranges if not _overlaps(known, current)]
        self._ranges = sorted([*current, *past[:_MAX_PAST_RANGES]], key=lambda code: code.start)
        self._starts = [code.start for code in self._ranges]
        self._open_files()

    def find(self, address: int) -> CodeRange | None:
        """Return the range with this address."""
        place = bisect_right(self._starts, address) - 1
        return self._ranges[place] if place >= 0 and address < self._ranges[place].end else None

    def content(self, mapped: MappedFile) -> FileBytes | None:
        """Return the file of a range that was found, None where it cannot be reached."""
        return self._contents.get((mapped.device, mapped.inode))

    def close(self) -> None:
        """Let go of the files; nothing is known any more."""
        if self._process is not None:
            os.close(self._process)
        self._process, self._ranges, self._starts = None, (), ()
        self._let_go(self._contents.keys())

    def _read(self) -> list[CodeRange]:
        if self._process is None:
            return []
        try:
            root = os.readlink("root", dir_fd=self._process)
            with os.fdopen(os.open("maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._process), "rb") as maps:
                lines = maps.read().split(b"\n")
        except OSError:
            return []
        return list(islice(_code_ranges(lines, root), _MAX_RANGES))

    def _open_files(self) -> None:
        wanted = {(code.mapped.device, code.mapped.inode): code.mapped for code in self._ranges if code.mapped}
        self._let_go(self._contents.keys() - wanted.keys())
        for key, mapped in wanted.items():
            if key not in self._contents and len(self._contents) < _MAX_FILES:
                self._contents[key] = _open(self._pid, mapped)

    def _let_go(self, keys: Set[tuple[int, int]]) -> None:
        for key in list(keys):
            content = self._contents.pop(key)
            if content is not None:
                content.close()


def _code_ranges(lines: Sequence[bytes], root: str) -> Iterator[CodeRange]:
    """Yield the executable ranges of a /proc/PID/maps."""
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) < 5 or fields[1][2:3] != b"x":
            continue
        start, end = (int(address, 16) for address in fields[0].split(b"-"))
        mapped = mapped_file(line, root)
        if mapped is not None:
            yield CodeRange(start, end, mapped.path.rpartition("/")[2], mapped)
        else:
            own_name = fields[5].decode(errors="replace") if len(fields) > 5 else ""
            # A process can name its memory `[anon:...]`; the kernel's names are plain, as `[vdso]`.
            yield CodeRange(start, end, own_name if own_name and ":" not in own_name else "[anon]", None)


def _overlaps(known: CodeRange, current: Sequence[CodeRange]) -> bool:
    """Say whether one of the `current` ranges, in their order, has an address of the known one."""
    place = bisect_left(current, known.end, key=lambda code: code.start) - 1
    return place >= 0 and current[place].end > known.start


def _open(pid: int, mapped: MappedFile) -> FileBytes | None:
    with suppress(AttachError, TargetGone, OSError):
        return FileBytes(open_mapped(pid, mapped))
    with suppress(AttachError, TargetGone, OSError):  # without CAP_CHECKPOINT_RESTORE this way leads to a deleted one
        if executable_in_maps(pid) == (mapped.device, mapped.inode):
            return FileBytes(open_executable(pid))
    return None
