"""The files that a process has mapped, or that a binary would have if it were started."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ebpf_userspace_exporter.worker.build.libraries import Library, needed_libraries, open_regular
from ebpf_userspace_exporter.worker.elf import ElfError
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import (
    MappedFile,
    executable_in_maps,
    find_mapped,
    mapped_files,
    open_executable,
    open_mapped,
)


class AddressSpace(Protocol):
    """Where probes are looked for; str() is how messages call it."""

    @property
    def mapped(self) -> Sequence[MappedFile]:
        """Every mapped file, once."""

    @property
    def executable(self) -> MappedFile | None:
        """The one of them that is executed; None where that cannot be known."""

    def find(self, path: str) -> MappedFile | None:
        """Return the mapped file that a path leads to."""

    def open(self, mapped: MappedFile | None) -> int:
        """Return a descriptor of the very file, of the executable for None; AttachError, OSError."""


class ProcessSpace:
    """What process `pid` has mapped now; TargetGone at any time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.mapped: Sequence[MappedFile] = mapped_files(pid)
        executable = executable_in_maps(pid)
        self.executable = next((m for m in self.mapped if (m.device, m.inode) == executable), None)

    def __str__(self) -> str:
        return f"process {self._pid}"

    def find(self, path: str) -> MappedFile | None:
        """Return the mapped file that a path leads to, as the process would follow it."""
        return find_mapped(self._pid, path, self.mapped)

    def open(self, mapped: MappedFile | None) -> int:
        """Return a descriptor of what is mapped, also where it was deleted or replaced on disk."""
        if mapped is None or mapped is self.executable:
            return open_executable(self._pid)
        return open_mapped(self._pid, mapped)


class BinarySpace:
    """What a process that executes `binary` would begin with; AttachError where it is no ELF file."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        try:
            libraries = needed_libraries(binary)
        except (OSError, ElfError) as error:
            raise AttachError(Reason.FILE_NOT_FOUND, f"{binary}: {_words(error)}") from error
        self.executable: MappedFile | None = _as_mapped(Library(binary.name, Path(os.path.realpath(binary))))
        self.mapped: Sequence[MappedFile] = (self.executable, *map(_as_mapped, libraries))

    def __str__(self) -> str:
        return f"{self._binary}, as far as it is known without running it,"

    def find(self, path: str) -> MappedFile | None:
        """Return the file that a path leads to here."""
        real = os.path.realpath(path)
        return next((candidate for candidate in self.mapped if candidate.path in (path, real)), None)

    def open(self, mapped: MappedFile | None) -> int:
        """Return a descriptor of the file."""
        path = self._binary if mapped is None else Path(mapped.path)
        if not path.is_absolute() and mapped is not None:
            raise AttachError(Reason.FILE_NOT_FOUND, f"{mapped.path}: the dynamic loader would not find it")
        try:
            return open_regular(path)
        except OSError as error:
            raise AttachError(Reason.FILE_NOT_FOUND, f"{path}: {_words(error)}") from error


def _as_mapped(library: Library) -> MappedFile:
    """Return the library as if it were mapped at its beginning; under its bare name where there is none."""
    path = library.name if library.path is None else str(library.path)
    return MappedFile(path, device=0, inode=0, start=0, end=0, offset=0, is_executable=True)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
