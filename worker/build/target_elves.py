"""The ELF files that a target has mapped, opened at most once each, found by the names that people write."""

import mmap
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Self

from ebpf_userspace_exporter.worker.build.address_spaces import AddressSpace
from ebpf_userspace_exporter.worker.build.similar_names import similar_files
from ebpf_userspace_exporter.worker.elf import Elf, ElfError
from ebpf_userspace_exporter.worker.image import FileIdentity, ProbedFile
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import MappedFile, identity


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
    """The ELF files of one process, or of one binary; TargetGone at any time."""

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._opened: dict[MappedFile | None, OpenedElf] = {}
        self._contents: list[mmap.mmap] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for content in self._contents:
            content.close()

    def executable(self) -> OpenedElf:
        """Return what is executed, of a process through /proc/PID/exe."""
        return self._open(self._space.executable)

    def everything(self) -> Iterator[OpenedElf | str]:
        """Yield the executable and every mapped library; for one that cannot be looked into, why."""
        yield self.executable()
        for mapped in self._space.mapped:
            if not mapped.is_executable or mapped is self._space.executable:
                continue
            try:
                yield self._open(mapped)
            except AttachError as error:
                yield error.message

    def named(self, name: str) -> OpenedElf:
        """Return a file by its path as the target sees it, or a library by its name: `libc.so.6`, `libc` or `c`."""
        libraries = [mapped for mapped in self._space.mapped if mapped.is_executable]
        if "/" in name:
            found = self._space.find(name)
            if found is None:
                near = self._near(name, [library.path for library in libraries])
                raise AttachError(Reason.FILE_NOT_FOUND, f"{name}: not mapped in {self._space}; {near}")
            return self._open(found)
        for pattern in _library_patterns(name):
            matches = [library for library in libraries if pattern.fullmatch(base_name(library.path))]
            if len(matches) > 1:
                listed = ", ".join(sorted(match.path for match in matches))
                raise AttachError(Reason.PROBE_AMBIGUOUS, f"{name}: {self._space} maps several: {listed}")
            if matches:
                return self._open(matches[0])
        near = self._near(name, {base_name(library.path) for library in libraries})
        raise AttachError(Reason.FILE_NOT_FOUND, f"{name}: {self._space} maps no such library; {near}")

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
        is_executable = mapped is None or mapped is self._space.executable
        name = mapped.path if mapped else "the executable"
        fd = self._space.open(mapped)
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
