"""Images: one build per program and binary, a few at a time, each in a child that lives seconds."""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import structlog

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.targets import Target
from ebpf_userspace_exporter.worker.build.process import (
    MAX_DIAGNOSTICS_BYTES,
    MAX_RESULT_BYTES,
    BuildRequest,
    read_result,
    read_warnings,
)
from ebpf_userspace_exporter.worker.build.process import run as run_builder
from ebpf_userspace_exporter.worker.image import FileIdentity, Image
from ebpf_userspace_exporter.worker.reasons import MISSING, PERMANENT, AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import TargetGone, fits, identity_of

MappedCode = frozenset[tuple[int, int]]

logger = structlog.get_logger()

BUILD_SECONDS = 60.0
MAX_BUILDERS = 2
MAX_REMEMBERED = 256
MAX_IMAGES = 8  # of one key: for so many sets of libraries under one executable
MAX_LACKING = 64  # of one key: sets of libraries that have not all the probes
SHARED_FAILURE_SECONDS = 5.0  # how long a failure that may pass is taken to hold for other processes of the binary


@dataclass(frozen=True, slots=True)
class BuildKey:
    """What an image is made of: a program's digest and an executable; a library is compared when it is used."""

    definition: str
    executable: FileIdentity


@dataclass(slots=True)
class _Build:
    key: BuildKey
    target: Target
    mapped: MappedCode
    result_fd: int
    diagnostics_fd: int
    deadline: float
    timed_out: bool = False
    is_awaited: bool = True  # by its target, which alone may be given what concerns it alone


@dataclass(slots=True)
class _Known:
    images: list[Image] = field(default_factory=list)
    lacking: OrderedDict[MappedCode, AttachError] = field(default_factory=OrderedDict)
    failure: AttachError | None = None
    failure_until: float = 0.0


class Builds:
    """The images there are, and the builders at work."""

    def __init__(
        self,
        scratch: Path,
        kernel_headers: Path | None,
        run_builder: Callable[[BuildRequest, int, int], None] = run_builder,
    ) -> None:
        """Build in `scratch`; `run_builder` runs in the builder, given descriptors for its result and its words."""
        self.finished = 0
        """How many builders have ended, whatever came of it."""
        self._run_builder = run_builder
        self._scratch = scratch
        self._kernel_headers = kernel_headers
        self._known: OrderedDict[BuildKey, _Known] = OrderedDict()
        self._running: dict[int, _Build] = {}
        # An image or a failure that concerns one process alone is handed to that target, once.
        self._answers: dict[Target, Image | AttachError] = {}

    def image_for(self, target: Target, program: Program, mapped: MappedCode, now: float) -> Image | None:
        """Return the image for a target that has `mapped` these files; None while it is being built or has to wait.

        AttachError where it cannot be had.
        """
        answer = self._answers.pop(target, None)
        if isinstance(answer, AttachError):
            raise answer
        if answer is not None:
            return answer
        key = BuildKey(target.definition, _executable(target.slot.pid))
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            if known.failure is not None and now < known.failure_until:
                raise _renewed(known.failure)
            if mapped in known.lacking:
                raise _renewed(known.lacking[mapped])
            for image in known.images:
                if fits(image.files, target.slot.pid):
                    return image
        if len(self._running) < MAX_BUILDERS and all(build.key != key for build in self._running.values()):
            self._start(key, target, program, mapped, now)
        return None

    def remember_failure(self, target: Target, error: AttachError) -> None:
        """Give the same answer to every target of that program and binary, from now on."""
        try:
            key = BuildKey(target.definition, _executable(target.slot.pid))
        except AttachError:
            return
        self._remember_failure(key, error, inf)

    def on_exit(self, pid: int, exit_code: int, now: float) -> bool:
        """Take what a builder has left behind; False if that child was none."""
        build = self._running.pop(pid, None)
        if build is None:
            return False
        self.finished += 1
        result = _read_all(build.result_fd, MAX_RESULT_BYTES)
        diagnostics = _read_all(build.diagnostics_fd, MAX_DIAGNOSTICS_BYTES)
        os.close(build.result_fd)
        os.close(build.diagnostics_fd)
        answer: Image | AttachError
        try:
            if build.timed_out:
                text = diagnostics.decode(errors="replace")
                raise AttachError(Reason.BUILDER_TIMEOUT, f"no image after {BUILD_SECONDS:.0f} s", text)
            image = read_result(result, diagnostics, exit_code)
        except TargetGone as error:
            answer = AttachError(Reason.TARGET_CHANGED, str(error))
        except AttachError as error:
            if error.reason in MISSING:
                lacking = self._remember(build.key).lacking
                lacking[build.mapped] = _renewed(error)
                if len(lacking) > MAX_LACKING:
                    lacking.popitem(last=False)
                return True
            if error.reason is not Reason.TARGET_CHANGED:
                until = inf if error.reason in PERMANENT else now + SHARED_FAILURE_SECONDS
                self._remember_failure(build.key, error, until)
                return True
            answer = _renewed(error)
        else:
            logger.info("built", program=build.target.slot.program, pid=build.target.slot.pid, files=_paths(image))
            for warning in read_warnings(diagnostics):
                logger.warning("built with a warning", program=build.target.slot.program, warning=warning)
            if not image.process_bound:
                images = self._remember(build.key).images
                images.append(image)
                del images[:-MAX_IMAGES]
                return True
            answer = image
        if build.is_awaited:
            self._answers[build.target] = answer
        return True

    def kill_late(self, now: float) -> None:
        """Kill the builders whose time is over; `on_exit` says so to who waits."""
        for pid, build in self._running.items():
            if build.deadline <= now and not build.timed_out:
                build.timed_out = True
                children.kill(pid)

    def next_deadline(self) -> float:
        """Return when `kill_late` has something to do, on the monotonic clock."""
        return min((build.deadline for build in self._running.values() if not build.timed_out), default=inf)

    def retain(self, definitions: Iterable[str]) -> None:
        """Forget the images of programs that are in the config no more."""
        kept = set(definitions)
        for key in [key for key in self._known if key.definition not in kept]:
            del self._known[key]
        for target in [target for target in self._answers if target.definition not in kept]:
            del self._answers[target]

    def give_back(self, target: Target, image: Image) -> None:
        """Keep an image of one process until its target asks for it once more."""
        self._answers[target] = image

    def forget(self, target: Target) -> None:
        """Drop an answer that nobody will ask for any more."""
        self._answers.pop(target, None)
        for build in self._running.values():
            build.is_awaited &= build.target != target

    def kill_all(self) -> None:
        """Kill every builder."""
        for pid in self._running:
            children.kill(pid)

    @property
    def is_empty(self) -> bool:
        """Whether no builder is at work."""
        return not self._running

    def _start(self, key: BuildKey, target: Target, program: Program, mapped: MappedCode, now: float) -> None:
        request = BuildRequest(program, target.slot.pid, self._kernel_headers, self._scratch)
        with contextlib.ExitStack() as undo:
            result_fd = os.memfd_create("image")
            undo.callback(os.close, result_fd)
            diagnostics_fd = os.memfd_create("diagnostics")
            undo.callback(os.close, diagnostics_fd)
            pid = children.spawn(
                "exporter-build",
                lambda: self._run_builder(request, result_fd, diagnostics_fd),
                keep=(result_fd, diagnostics_fd),
            )
            undo.pop_all()
        self._running[pid] = _Build(key, target, mapped, result_fd, diagnostics_fd, now + BUILD_SECONDS)

    def _remember_failure(self, key: BuildKey, error: AttachError, until: float) -> None:
        known = self._remember(key)
        known.failure, known.failure_until = _renewed(error), until

    def _remember(self, key: BuildKey) -> _Known:
        known = self._known.setdefault(key, _Known())
        self._known.move_to_end(key)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return known


def _renewed(error: AttachError) -> AttachError:
    """Return the error as if it had never been raised: each raise adds to its traceback, which holds frames."""
    return AttachError(error.reason, error.message, error.diagnostics)


def _executable(pid: int) -> FileIdentity:
    try:
        status = os.stat(f"/proc/{pid}/exe")  # noqa: PTH116 - asked for every target that waits
    except (FileNotFoundError, ProcessLookupError) as error:
        raise AttachError(Reason.TARGET_CHANGED, f"process {pid} is gone") from error
    except OSError as error:
        raise AttachError(Reason.PERMISSION, f"cannot look at /proc/{pid}/exe: {error.strerror}") from error
    return identity_of(status)


def _read_all(descriptor: int, limit: int) -> bytes:
    """Return a memfd's content; a builder that wrote more than `limit` gets it cut, which no decoder accepts."""
    content = bytearray()
    while len(content) <= limit and (part := os.pread(descriptor, 1 << 20, len(content))):
        content += part
    return bytes(content)


def _paths(image: Image) -> str:
    return ", ".join(file.path or "exe" for file in image.files)
