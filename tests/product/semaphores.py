"""Reads a process's USDT semaphores: above 0, the process does the work that a probe's arguments need."""

import mmap
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from ebpf_userspace_exporter.worker.elf import ET_EXEC, Elf, ElfError

_MAPPING = re.compile(r"([0-9a-f]+)-[0-9a-f]+ \S+ ([0-9a-f]+) \S+ [1-9]\d*\s+(/.*)")


def raised_semaphores(pid: int) -> Mapping[str, int]:
    """Return the probes of all files that the process has mapped whose semaphore is not 0, with its value."""
    raised: dict[str, int] = {}
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for path, start, offset in _first_mappings(pid):
            with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
                try:
                    elf = Elf(content)
                    bias = 0 if elf.kind == ET_EXEC else start - elf.address_of(offset)
                    notes = [note for note in elf.sdt_notes() if note.semaphore]
                except ElfError:
                    continue
            for note in notes:
                memory.seek(bias + note.semaphore)
                (value,) = struct.unpack("=H", memory.read(2))
                if value:
                    raised[f"{note.provider}:{note.name}"] = value
    return raised


def _first_mappings(pid: int) -> list[tuple[str, int, int]]:
    """Return path, address and offset of each mapped file's first mapping."""
    found: dict[str, tuple[str, int, int]] = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        match = _MAPPING.fullmatch(line)
        if match and Path(match[3]).is_file():
            found.setdefault(match[3], (match[3], int(match[1], 16), int(match[2], 16)))
    return list(found.values())
