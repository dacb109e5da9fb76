"""Which libraries an executable is linked with, and where the dynamic loader would find them; nothing of it is run.

As in ld.so(8): the RPATH or RUNPATH of who needs the library, the loader's cache, the standard folders. What a process
opens while it runs (dlopen), and LD_LIBRARY_PATH, only the process knows.
"""

import mmap
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ebpf_userspace_exporter.worker.elf import DT_NEEDED, DT_RPATH, DT_RUNPATH, Elf, ElfError

_LDCONFIG = "/sbin/ldconfig"
_LDCONFIG_SECONDS = 10
_CACHED = re.compile(r"^\s+(\S+) \(([^)]*)\) => (.+)$", re.MULTILINE)
_STANDARD_FOLDERS = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")
_MAX_LIBRARIES = 512


@dataclass(frozen=True, slots=True)
class Library:
    """A library by the name that it is asked for; `path`, without links, is None where there is none."""

    name: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class _Linked:
    machine: int
    needed: tuple[str, ...]
    folders: tuple[str, ...]


def needed_libraries(executable: Path) -> list[Library]:
    """Return the libraries that are loaded with the executable, each once; OSError and ElfError about that one."""
    linked = _read(executable)
    cache = _loader_cache()
    found: dict[str, Library] = {}
    waiting = [(name, linked.folders) for name in linked.needed]
    while waiting and len(found) < _MAX_LIBRARIES:
        name, folders = waiting.pop(0)
        if name in found:
            continue
        found[name] = Library(name, None)
        for candidate in _candidates(name, folders, cache):
            try:
                library = _read(candidate)
            except (OSError, ElfError):
                continue
            if library.machine == linked.machine:
                found[name] = Library(name, Path(os.path.realpath(candidate)))
                waiting += [(other, library.folders) for other in library.needed]
                break
    return list(found.values())


def open_regular(path: Path) -> int:
    """Return a descriptor of a regular file; OSError for anything else, which opening could wait for or set off."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    raise OSError("is a directory, expected a file" if stat.S_ISDIR(mode) else "is no regular file")


def _read(path: Path) -> _Linked:
    fd = open_regular(path)
    try:
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as content:
            elf = Elf(content)
            strings = list(elf.dynamic_strings())
            machine = elf.machine
    except ValueError as error:
        raise ElfError("an empty file") from error
    finally:
        os.close(fd)
    # RPATH counts only where there is no RUNPATH.
    paths = [text for tag, text in strings if tag == DT_RUNPATH] or [text for tag, text in strings if tag == DT_RPATH]
    origin = os.path.dirname(os.path.realpath(path))  # noqa: PTH120 - a text with $ORIGIN in it is made of texts
    folders = tuple(folder for text in paths for part in text.split(":") for folder in _expand(part, origin))
    return _Linked(machine, tuple(text for tag, text in strings if tag == DT_NEEDED), folders)


def _expand(folder: str, origin: str) -> Iterator[str]:
    """Yield what the loader's tokens may stand for; $LIB is whatever the distribution calls it."""
    folder = re.sub(r"\$(ORIGIN\b|\{ORIGIN\})", lambda _: origin, folder)
    if not re.search(r"\$(LIB\b|\{LIB\})", folder):
        yield folder
        return
    for name in ("lib64", f"lib/{os.uname().machine}-linux-gnu", "lib"):
        yield re.sub(r"\$(LIB\b|\{LIB\})", name, folder)


def _candidates(name: str, folders: Sequence[str], cache: Mapping[str, Sequence[str]]) -> Iterator[Path]:
    if "/" in name:
        yield Path(name)
        return
    yield from (Path(folder, name) for folder in folders if folder.startswith("/"))
    yield from map(Path, cache.get(name, ()))
    yield from (Path(folder, name) for folder in _STANDARD_FOLDERS)


def _loader_cache() -> dict[str, list[str]]:
    """Return where glibc's cache has each library; empty where there is no glibc."""
    cache: dict[str, list[str]] = {}
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [_LDCONFIG, "-p"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"LC_ALL": "C"},
            timeout=_LDCONFIG_SECONDS,
            check=False,
        )
        for name, kind, path in _CACHED.findall(os.fsdecode(done.stdout)):
            if "hwcap" not in kind:
                cache.setdefault(name, []).append(path)
    return cache
