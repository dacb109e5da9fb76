"""What /proc says of one process.

Everything in it was chosen by whoever runs the process: it is bounded before it is read and valid text afterwards.

Not from psutil, each for a reason of its own: its `cmdline` splits titles and arguments with spaces in them, and reads
as much as the process claims to have (prctl(2), PR_SET_MM_MAP), as does `environ`; `exe` guesses from the command line
what it may not read; `uids` and `username` believe a process that names itself `Uid:\\t0\\t0\\t0`; `exe` and `cwd` look
in our mount namespace whether a file was deleted; `net_connections` knows our network namespace only.
"""

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from typing import TypeVar

from ebpf_userspace_exporter.supervisor.processes import Process, is_kernel_thread
from ebpf_userspace_exporter.supervisor.selection.cgroups import cgroup_path, container_id, systemd_unit
from ebpf_userspace_exporter.supervisor.selection.listening import ListeningSockets
from ebpf_userspace_exporter.worker.decoders.text import as_bytes, as_text
from ebpf_userspace_exporter.worker.reasons import AttachError
from ebpf_userspace_exporter.worker.target_files import TargetGone, mapped_files

MAX_CHARACTERS = 4096  # of any text; patterns and globs see no more
_MAX_BYTES = 4 * MAX_CHARACTERS
_MAX_ENVIRON_BYTES = 2 << 20  # arguments and environment are at most a quarter of the stack's limit, of usually 8 MiB
_MAX_STATUS_BYTES, _MAX_CGROUP_BYTES = 1 << 14, 1 << 17
_DELETED = " (deleted)"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A fact that is not known, which is neither so nor not so."""

    reason: str

    def __str__(self) -> str:
        return f"cannot be read: {self.reason}"


def _fact(read: Callable[["Facts"], T]) -> "cached_property[T | Unreadable]":
    """Have the fact read when it is first asked for, and remember also that it could not be."""
    return cached_property(wraps(read)(lambda facts: _unless_unreadable(facts.process.pid, lambda: read(facts))))


def _unless_unreadable(pid: int, read: Callable[[], T]) -> T | Unreadable:
    try:
        return read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    except (TargetGone, AttachError) as error:
        reason = str(error)
    return Unreadable("it is a kernel thread" if is_kernel_thread(pid) else reason)


class Facts:
    """Of one process, each read at most once; None stands for what the process does not have."""

    def __init__(self, process: Process, sockets: ListeningSockets) -> None:
        self.process = process
        self._sockets = sockets
        self._variables: dict[str, str | Unreadable | None] = {}

    @_fact
    def exe(self) -> str:
        """The path of what it executes, without links, as it sees it itself; also of a file that was deleted."""
        return self._link(b"exe")

    @_fact
    def cwd(self) -> str:
        """The path of its working directory, as it sees it itself."""
        return self._link(b"cwd")

    @_fact
    def cmdline(self) -> str:
        """The arguments, or the title that is in their place, with spaces between them."""
        return _text(self._arguments.rstrip(b"\0 ").replace(b"\0", b" "))

    @_fact
    def argv0(self) -> str:
        """The first argument, which is the whole title where there is one."""
        return _text(self._arguments.split(b"\0", 1)[0].rstrip(b" "))

    @_fact
    def uid(self) -> int:
        """The number of the user as whom it acts: the effective one, which is what ps and top show."""
        lines = self._read("status", _MAX_STATUS_BYTES).split(b"\n")  # of which a name cannot contain any
        [uids] = [line for line in lines if line.startswith(b"Uid:")]
        return int(uids.split()[2])

    @property
    def user(self) -> str | Unreadable:
        """The name of that user as our system knows it, else the number."""
        return self.uid if isinstance(self.uid, Unreadable) else user_name(self.uid)

    @_fact
    def cgroup(self) -> str:
        """The path of its control group."""
        return cgroup_path(as_text(self._read("cgroup", _MAX_CGROUP_BYTES)))[:MAX_CHARACTERS]

    @property
    def systemd_unit(self) -> str | Unreadable | None:
        """The name of its systemd unit: a service or a scope."""
        return self.cgroup if isinstance(self.cgroup, Unreadable) else systemd_unit(self.cgroup)

    @property
    def container_id(self) -> str | Unreadable | None:
        """The whole id of its container."""
        return self.cgroup if isinstance(self.cgroup, Unreadable) else container_id(self.cgroup)

    @_fact
    def libraries(self) -> tuple[str, ...]:
        """The paths of the files that it has mapped, as it sees them itself."""
        return tuple(_text(os.fsencode(mapped.path)) for mapped in mapped_files(self.process.pid))

    @_fact
    def ports(self) -> tuple[int, ...]:
        """The TCP ports on which it listens."""
        return self._sockets.ports(self.process.pid)

    def variable(self, name: str) -> str | Unreadable | None:
        """Return a variable of the environment that it was started with, the first one of that name."""
        # Not the whole environment: it may be megabytes, and facts are kept while a look lasts.
        if name not in self._variables:
            self._variables[name] = _unless_unreadable(
                self.process.pid, lambda: _variable(self._read("environ", _MAX_ENVIRON_BYTES), as_bytes(name))
            )
        return self._variables[name]

    @cached_property
    def _arguments(self) -> bytes:
        return self._read("cmdline", _MAX_BYTES)

    def _read(self, name: str, most: int) -> bytes:
        with open(f"/proc/{self.process.pid}/{name}", "rb") as file:  # noqa: PTH123 - as often as stat
            return file.read(most)

    def _link(self, name: bytes) -> str:
        # Bytes, which pathlib does not have: the path may be no UTF-8.
        directory = b"/proc/%d/" % self.process.pid
        path, root = os.readlink(directory + name), os.readlink(directory + b"root")  # noqa: PTH115
        path = path.removesuffix(_DELETED.encode())
        if root != b"/" and (path + b"/").startswith(root + b"/"):
            path = path[len(root) :] or b"/"  # a chroot: the link has the path as we see it
        return _text(path)


def user_name(uid: int) -> str:
    """Return the name of the user as our system knows it, else the number."""
    try:
        return _known_user_name(uid)
    except KeyError:
        return str(uid)


@lru_cache(maxsize=1024)
def _known_user_name(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name


def _text(raw: bytes) -> str:
    return as_text(raw[:_MAX_BYTES])[:MAX_CHARACTERS]


def _variable(environ: bytes, name: bytes) -> str | None:
    _before, found, after = (b"\0" + environ).partition(b"\0" + name + b"=")
    return _text(after.split(b"\0", 1)[0]) if found else None
