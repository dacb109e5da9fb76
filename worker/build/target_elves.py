"""The ELF files that a target has mapped, opened at most once each, found by the names that people write."""

import mmap
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Self

from ebpf_userspace_exporter.worker.build.similar_names import similar_files
from ebpf_userspace_exporter.worker.elf import Elf, ElfError
from ebpf_userspace_exporter.worker.image import FileIdentity, ProbedFile
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import (
    MappedFile,
    executable_in_maps,
    find_mapped,
    identity,
    mapped_files,
    open_executable,
    open_mapped,
)


@dataclass(frozen=True, slots=True, eq=False)
class OpenedElf:
    """An ELF file of the target; `path` as the target sees it, None for its executable."""

    path: str | None
    identity: FileIdentity
    elf: Elf
    mapped: MappedFile | None

    def __str__(self) -> str:
        return self.path or (f"{self.mapped.path} (the executable)" if self.mapped else "the executable")

    def probed(self) -> ProbedFile:
        """Return how an image refers to this file."""
        return ProbedFile(self.path, self.identity)


class TargetElves:
    """The ELF files of one process; TargetGone at any time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._mapped = mapped_files(pid)
        executable = executable_in_maps(pid)
        self._executable = next((m for m in self._mapped if (m.device, m.inode) == executable), None)
        self._opened: dict[MappedFile | None, OpenedElf] = {}
        self._contents: list[mmap.mmap] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for content in self._contents:
            content.close()

    def executable(self) -> OpenedElf:
        """Return what the process executes, through /proc/PID/exe."""
        return self._open(self._executable)

    def everything(self) -> Iterator[OpenedElf | str]:
        """Yield the executable and every mapped library; for one that cannot be looked into, why."""
        yield self.executable()
        for mapped in self._mapped:
            if not mapped.is_executable or mapped is self._executable:
                continue
            try:
                yield self._open(mapped)
            except AttachError as error:
                yield error.message

    def named(self, name: str) -> OpenedElf:
        """Return a file by its path as the target sees it, or a library by its name: `libc.so.6`, `libc` or `c`."""
        if "/" in name:
            found = find_mapped(self._pid, name, self._mapped)
            if found is None:
                near = self._near(name, [m.path for m in self._mapped if m.is_executable])
                raise AttachError(Reason.FILE_NOT_FOUND, f"{name}: not mapped in process {self._pid}; {near}")
            return self._open(found)
        for pattern in _library_patterns(name):
            matches = [m for m in self._mapped if m.is_executable and pattern.fullmatch(base_name(m.path))]
            if len(matches) > 1:
                listed = ", ".join(sorted(m.path for m in matches))
                raise AttachError(Reason.PROBE_AMBIGUOUS, f"{name}: process {self._pid} maps several: {listed}")
            if matches:
                return self._open(matches[0])
        near = self._near(name, {base_name(m.path) for m in self._mapped if m.is_executable})
        raise AttachError(Reason.FILE_NOT_FOUND, f"{name}: process {self._pid} maps no such library; {near}")

    def _near(self, name: str, mapped: Collection[str]) -> str:
        similar = similar_files(name, mapped)
        if similar:
            return f"did you mean {' or '.join(similar)}?"
        return f"it maps {', '.join(sorted({base_name(path) for path in mapped})[:40])}"

    def _open(self, mapped: MappedFile | None) -> OpenedElf:
        if mapped not in self._opened:
            self._opened[mapped] = self._read(mapped)
        return self._opened[mapped]

    def _read(self, mapped: MappedFile | None) -> OpenedElf:
        is_executable = mapped is None or mapped is self._executable
        name = mapped.path if mapped else "the executable"
        fd = open_executable(self._pid) if mapped is None or is_executable else open_mapped(self._pid, mapped)
        try:
            content = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
            self._contents.append(content)
            return OpenedElf(None if is_executable else name, identity(fd), Elf(content), mapped)
        except (ElfError, OSError, ValueError) as error:  # ValueError: an empty file
            raise AttachError(Reason.FILE_NOT_FOUND, f"{name}: {error}") from error
        finally:
            os.close(fd)


def _library_patterns(name: str) -> list[re.Pattern[str]]:
    """Return what a bare name may stand for, the most exact first."""
    stem = re.escape(name)
    return [re.compile(stem)] + [
        re.compile(prefix + stem + r"(-[0-9.]+)?\.so(\..*)?", re.DOTALL) for prefix in ("", "lib")
    ]


def base_name(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition("/")[2]
