"""The files that a target has mapped, opened as the target sees them, and never another file of the same name."""

import ctypes
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ebpf_userspace_exporter.worker.image import FileIdentity, ProbedFile
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_DELETED = " (deleted)"
_MAX_MAPS_BYTES = 16 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class TargetGone(Exception):  # noqa: N818 - an outcome, as its name says
    """The process left while we looked at it: an outcome, not an error."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid} is gone")
        self.pid = pid


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file that a process has mapped, and one of its mappings: an executable one where there is one.

    `device` and `inode` are those of /proc/PID/maps, which are not stat's on btrfs and on older overlayfs. The mapping
    is the addresses from `start` to `end`, of the file from `offset` on.
    """

    path: str
    device: int
    inode: int
    start: int
    end: int
    offset: int
    is_executable: bool


def mapped_files(pid: int) -> tuple[MappedFile, ...]:
    """Return every file that the process has mapped, once each, paths as the process sees them.

    TargetGone, or AttachError for a process whose list of mappings is longer than any honest one's.
    """
    with _target(pid):
        root = str(Path(f"/proc/{pid}/root").readlink())
        # The supervisor reads it too, and anybody can have 65530 mappings with paths of 4 KiB.
        with open(f"/proc/{pid}/maps", "rb") as maps:  # noqa: PTH123 - pathlib reads all there is
            content = maps.read(_MAX_MAPS_BYTES + 1)
    if not content:  # a zombie has no memory
        raise TargetGone(pid)
    if len(content) > _MAX_MAPS_BYTES:
        raise AttachError(Reason.ATTACH, f"process {pid} has too many mappings: over {_MAX_MAPS_BYTES} bytes of them")
    found: dict[tuple[int, int], MappedFile] = {}
    for mapped in _parse_maps(_first_of_each_file(content), root):
        known = found.get((mapped.device, mapped.inode))
        if known is None or (mapped.is_executable and not known.is_executable):
            found[mapped.device, mapped.inode] = mapped
    return tuple(found.values())


def mapped_code(pid: int) -> frozenset[tuple[int, int]]:
    """Return device and inode of every file from which the process may execute code; or TargetGone."""
    return frozenset((mapped.device, mapped.inode) for mapped in mapped_files(pid) if mapped.is_executable)


def mapped_file(line: bytes, root: str) -> MappedFile | None:
    """Return what a line of /proc/PID/maps says, see proc(5), or None for no file; `root` is what /proc/PID/root is."""
    fields = line.split(None, 5)
    if len(fields) < 6 or not fields[5].startswith(b"/"):
        return None
    start, end = (int(address, 16) for address in fields[0].split(b"-"))
    major, minor = (int(number, 16) for number in fields[3].split(b":"))
    path = os.fsdecode(fields[5].replace(rb"\012", b"\n")).removesuffix(_DELETED)  # nothing but the newline is escaped
    if root != "/" and path.startswith(root + "/"):
        path = path[len(root) :]  # a chroot: maps has the path as we see it
    return MappedFile(
        path=path,
        device=os.makedev(major, minor),
        inode=int(fields[4]),
        start=start,
        end=end,
        offset=int(fields[2], 16),
        is_executable=fields[1][2:3] == b"x",
    )


def open_executable(pid: int) -> int:
    """Return a descriptor of the file that the process executes, also where it was deleted; or TargetGone."""
    with _target(pid):
        return os.open(f"/proc/{pid}/exe", os.O_RDONLY | os.O_CLOEXEC)


def open_mapped(pid: int, mapped: MappedFile) -> int:
    """Return a descriptor of the very file that is mapped; AttachError STALE_FILE where it cannot be reached.

    /proc/PID/map_files reaches it also when it was deleted or replaced, but wants CAP_CHECKPOINT_RESTORE.
    """
    for open_path in (_open_range, _open_below_root):
        try:
            fd = _open_regular(open_path(pid, mapped))
        except OSError:
            continue
        if _identity_in_maps(fd) == (mapped.device, mapped.inode):
            return fd
        os.close(fd)
    with _target(pid):
        Path(f"/proc/{pid}/root").stat()  # tells a process that is gone, or not ours to look at, from a file that is
    raise AttachError(
        Reason.STALE_FILE, f"{mapped.path}: process {pid} maps a file that was replaced or deleted on disk"
    )


def identity(fd: int) -> FileIdentity:
    """Return what tells this file, with this content, from any other."""
    status = os.fstat(fd)
    return identity_of(status)


def identity_of(status: os.stat_result) -> FileIdentity:
    """Return the identity of the file that was looked at."""
    return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def executable_in_maps(pid: int) -> tuple[int, int] | None:
    """Return the executable's device and inode as /proc/PID/maps has them, None where it cannot be known."""
    fd = open_executable(pid)
    try:
        return _identity_in_maps(fd)
    finally:
        os.close(fd)


def find_mapped(pid: int, path: str, mapped: Sequence[MappedFile]) -> MappedFile | None:
    """Return the mapped file that `path`, followed through links as the process would, leads to."""
    for candidate in mapped:
        if candidate.path == path:
            return candidate
    try:
        fd = _open_regular(_open_in_root(pid, path))
    except OSError:
        return None
    try:
        key = _identity_in_maps(fd)
    finally:
        os.close(fd)
    return next((candidate for candidate in mapped if (candidate.device, candidate.inode) == key), None)


def open_probed(pid: int, file: ProbedFile) -> int:
    """Return a descriptor of the image's file in this process.

    AttachError FILE_NOT_FOUND where it is not mapped, STALE_FILE where it is not the file the image was built for.
    """
    return _open_probed(pid, file, mapped_files(pid) if file.path is not None else ())


def fits(image_files: Sequence[ProbedFile], pid: int) -> bool:
    """Say whether an image with these files, built for another process, serves this one; or TargetGone."""
    libraries = any(file.path is not None for file in image_files)
    mapped = mapped_files(pid) if libraries else ()
    try:
        for file in image_files:
            if file.path is None:
                with _target(pid):
                    status = Path(f"/proc/{pid}/exe").stat()
                if identity_of(status) != file.identity:
                    return False
            else:
                os.close(_open_probed(pid, file, mapped))
    except AttachError:
        return False
    return True


def _open_probed(pid: int, file: ProbedFile, mapped: Sequence[MappedFile]) -> int:
    name = file.path or "the executable"
    # After an upgrade a process can have two files of one path mapped: the old one and, by dlopen, the new one.
    candidates: list[MappedFile | None] = [candidate for candidate in mapped if candidate.path == file.path]
    if file.path is None:
        candidates = [None]
    if not candidates:
        raise AttachError(Reason.FILE_NOT_FOUND, f"{name}: not mapped in process {pid}")
    for candidate in candidates:
        fd = open_executable(pid) if candidate is None else open_mapped(pid, candidate)
        if identity(fd) == file.identity:
            return fd
        os.close(fd)
    raise AttachError(Reason.STALE_FILE, f"{name}: in process {pid} not the file that the program was built for")


@contextmanager
def _target(pid: int) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TargetGone(pid) from error
    except PermissionError as error:
        raise AttachError(Reason.PERMISSION, f"process {pid}: {error.strerror}: {error.filename}") from error


def _first_of_each_file(content: bytes) -> Iterator[bytes]:
    """Yield of each file in /proc/PID/maps its first line, and its first executable one: the others tell nothing new.

    To parse each line of somebody who has mapped one file 65530 times would take seconds.
    """
    seen: set[tuple[int, bytes, bytes]] = set()
    for line in content.split(b"\n"):
        fields = line.split(None, 5)
        if len(fields) == 6 and (key := (fields[1][2], fields[3], fields[4])) not in seen:
            seen.add(key)
            yield line


def _parse_maps(lines: Iterable[bytes], root: str) -> Iterator[MappedFile]:
    for line in lines:
        mapped = mapped_file(line, root)
        if mapped is not None:
            yield mapped


def _open_range(pid: int, mapped: MappedFile) -> int:
    return os.open(f"/proc/{pid}/map_files/{mapped.start:x}-{mapped.end:x}", os.O_PATH | os.O_CLOEXEC)


def _open_below_root(pid: int, mapped: MappedFile) -> int:
    return _open_in_root(pid, mapped.path)


class _OpenHow(ctypes.Structure):
    """struct open_how of linux/openat2.h."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _open_in_root(pid: int, path: str) -> int:
    """Return an O_PATH descriptor of the target's `path`: an absolute link in it stays below the target's root."""
    if "\0" in path:
        raise FileNotFoundError(path)
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        fd: int = _libc.syscall(
            _SYS_OPENAT2,
            root,
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
        return fd
    finally:
        os.close(root)


def _open_regular(path_fd: int) -> int:
    """Turn an O_PATH descriptor into one that reads; only of a regular file, as opening a device has effects."""
    try:
        if not stat.S_ISREG(os.fstat(path_fd).st_mode):
            raise OSError("not a regular file")
        return os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(path_fd)


def _identity_in_maps(fd: int) -> tuple[int, int] | None:
    """Return device and inode as /proc/PID/maps would show them: by mapping the file here and reading our own."""
    with suppress(OSError, ValueError), mmap.mmap(fd, 1, access=mmap.ACCESS_COPY) as page:
        first = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(first)
        del first  # an mmap with an exported buffer cannot be closed
        for mapped in _parse_maps(Path("/proc/self/maps").read_bytes().split(b"\n"), "/"):
            if mapped.start <= address < mapped.end:
                return mapped.device, mapped.inode
    return None
