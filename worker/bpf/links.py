"""Programs tied to places in files, for one process: UPROBE_MULTI links, or perf events where those do not work.

Either way a file is named by a path that the kernel follows once; an open descriptor is named /proc/self/fd/N, so that
what is probed is the file that was looked at, even if its path leads elsewhere by now.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import stat
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from ebpf_userspace_exporter.worker.bpf.errors import (
    BPF_CAPABILITIES,
    ENOTSUPP,
    PERF_CAPABILITIES,
    attach_error,
)
from ebpf_userspace_exporter.worker.bpf.syscalls import (
    TRACE_UPROBE_MULTI,
    UPROBE_MULTI_RETURN,
    Command,
    PerfEvent,
    UprobeMultiLink,
    bpf,
    perf_event_open,
)
from ebpf_userspace_exporter.worker.image import Probe
from ebpf_userspace_exporter.worker.kernel import Capability
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

File = str | int  # a path, or an open descriptor, for which O_PATH is enough
Place = tuple[int, int]  # offset in the file and ref_ctr_offset, the semaphore's, 0 for none

_UPROBE_PMU = Path("/sys/bus/event_source/devices/uprobe")
_PERF_EVENT_IOC_ENABLE = 0x2400
_PERF_EVENT_IOC_SET_BPF = 0x40042408
_REF_CTR_SHIFT, _REF_CTR_LIMIT = 32, 1 << 32  # format/ref_ctr_offset is config:32-63
_PLACES_SHOWN = 4

_WORDS = {
    ENOTSUPP: "the instruction there cannot be probed",
    errno.ENOEXEC: "there is no instruction there",
    errno.EIO: "the file system cannot be probed",
}


@dataclass(frozen=True, slots=True)
class Attachment:
    """What one descriptor stands for: a program at places of one file, at entry or at return."""

    function: str
    file: File
    places: tuple[Place, ...]
    is_return: bool

    def __str__(self) -> str:
        offsets = ", ".join(f"{offset:#x}" for offset, _ in self.places[:_PLACES_SHOWN])
        more = len(self.places) - _PLACES_SHOWN
        direction = "the return of " if self.is_return else ""
        name = _path(self.file)
        if isinstance(self.file, int):
            with contextlib.suppress(OSError):
                name = str(Path(name).readlink())
        return f"attach {self.function} to {direction}{name} at {offsets}{f' and {more} more' if more > 0 else ''}"


def attach(
    programs: Mapping[str, int], probes: Sequence[Probe], files: Sequence[File], pid: int, *, uprobe_multi: bool
) -> list[int]:
    """Attach to the process `pid` at every place of `probes`, or at none; return descriptors, whose closing detaches.

    `programs` gives for each Probe.function its descriptor, loaded for the same way; Probe.file is an index of `files`.
    A place named twice for one function counts once. AttachError names function, file and offsets:
    TARGET_CHANGED if the process is gone; OTHER_TRACER if somebody counts the same place with another semaphore;
    PERMISSION, DESCRIPTORS, MEMORY; ATTACH for the rest, as an instruction that cannot be probed.
    """
    with contextlib.ExitStack() as undo:
        descriptors: list[int] = []
        for attachment in _group(probes, files, together=uprobe_multi):
            program = programs[attachment.function]
            make = open_link if uprobe_multi else _open_perf_event
            descriptors.append(make(program, attachment, pid))
            undo.callback(os.close, descriptors[-1])
        undo.pop_all()
    return descriptors


def open_link(program: int, attachment: Attachment, pid: int) -> int:
    """Return the descriptor of a new UPROBE_MULTI link of `program`; AttachError as `attach`."""
    count = len(attachment.places)
    path = ctypes.create_string_buffer(os.fsencode(_path(attachment.file)))
    offsets = (ctypes.c_uint64 * count)(*(offset for offset, _ in attachment.places))
    semaphores = (ctypes.c_uint64 * count)(*(semaphore for _, semaphore in attachment.places))
    attributes = UprobeMultiLink(
        prog_fd=program,
        attach_type=TRACE_UPROBE_MULTI,
        path=ctypes.addressof(path),
        offsets=ctypes.addressof(offsets),
        ref_ctr_offsets=ctypes.addressof(semaphores),
        count=count,
        flags=UPROBE_MULTI_RETURN if attachment.is_return else 0,
        pid=pid,
    )
    try:
        return bpf(Command.LINK_CREATE, attributes)
    except OSError as error:
        raise _refusal(error, attachment, BPF_CAPABILITIES) from error


def _group(probes: Sequence[Probe], files: Sequence[File], *, together: bool) -> Iterator[Attachment]:
    """Yield one attachment per (function, file, direction), or, unless `together`, per place."""
    groups: dict[tuple[str, int, bool], dict[Place, None]] = {}
    for probe in probes:
        # A dict for its order and keys: one place given twice to a link would count double.
        places = groups.setdefault((probe.function, probe.file, probe.is_return), {})
        places[probe.offset, probe.ref_ctr_offset] = None
    for (function, file, is_return), places in groups.items():
        for part in [tuple(places)] if together else [(place,) for place in places]:
            yield Attachment(function, files[file], part, is_return)


def _open_perf_event(program: int, attachment: Attachment, pid: int) -> int:
    ((offset, semaphore),) = attachment.places
    if semaphore >= _REF_CTR_LIMIT:
        raise AttachError(Reason.ATTACH, f"{attachment}: semaphore at {semaphore:#x}, perf events reach 4 GiB")
    path = ctypes.create_string_buffer(os.fsencode(_path(attachment.file)))
    try:
        kind, return_bit = _uprobe_pmu()
        event = PerfEvent(
            type=kind,
            size=ctypes.sizeof(PerfEvent),
            config=semaphore << _REF_CTR_SHIFT | attachment.is_return << return_bit,
            config1=ctypes.addressof(path),
            config2=offset,
        )
        descriptor = perf_event_open(event, pid)
        try:
            fcntl.ioctl(descriptor, _PERF_EVENT_IOC_SET_BPF, program)
            fcntl.ioctl(descriptor, _PERF_EVENT_IOC_ENABLE, 0)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise _refusal(error, attachment, PERF_CAPABILITIES) from error
    return descriptor


@functools.cache
def _uprobe_pmu() -> tuple[int, int]:
    """Return the kernel's number for perf's uprobes, and which bit of config asks for the return."""
    try:
        kind = (_UPROBE_PMU / "type").read_text()
        return_bit = (_UPROBE_PMU / "format" / "retprobe").read_text().strip().removeprefix("config:")
    except FileNotFoundError as error:
        raise OSError(errno.EOPNOTSUPP, f"no perf events for uprobes: {_UPROBE_PMU} is not there") from error
    return int(kind), int(return_bit)


def _refusal(error: OSError, attachment: Attachment, needed: Set[Capability]) -> AttachError:
    """Tell what EINVAL means, which is three things (uprobe_register and alloc_uprobe in kernel/events/uprobes.c).

    An offset beyond the file's end and an odd semaphore are seen from here. What is left is a place where a probe with
    another ref_ctr_offset is in force, no matter in which process; 0 is another one too.
    """
    if error.errno == errno.EINVAL:
        fault = _find_fault(attachment)
        if fault:
            return AttachError(Reason.ATTACH, f"{attachment}: {fault}")
        message = f"{attachment}: somebody else probes the same place with another semaphore, or with none (EINVAL)"
        return AttachError(Reason.OTHER_TRACER, message)
    if error.errno in _WORDS:
        return AttachError(Reason.ATTACH, f"{attachment}: {_WORDS[error.errno]}")
    return attach_error(error, str(attachment), otherwise=Reason.ATTACH, needed=needed)


def _find_fault(attachment: Attachment) -> str:
    """Return what is wrong with the attachment itself, or nothing."""
    with contextlib.suppress(OSError):
        found = Path(_path(attachment.file)).stat()
        if not stat.S_ISREG(found.st_mode):
            return "not a regular file"
        for offset, semaphore in attachment.places:
            if offset >= found.st_size:
                return f"offset {offset:#x} is beyond the end of the file, {found.st_size:#x}"
            if semaphore % 2 or semaphore >= found.st_size:
                return f"semaphore at {semaphore:#x} is odd or beyond the end of the file, {found.st_size:#x}"
    return ""


def _path(file: File) -> str:
    return f"/proc/self/fd/{file}" if isinstance(file, int) else file
