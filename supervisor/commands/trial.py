"""Builds a program and has the kernel verify it, each in a child with a deadline; attaches nothing.

What is built comes from files that anybody may have written: the compiler may hang, grow, or end its process.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.builds import BUILD_SECONDS
from ebpf_userspace_exporter.worker.bpf.maps import create_map
from ebpf_userspace_exporter.worker.bpf.programs import load_program
from ebpf_userspace_exporter.worker.build.process import (
    MAX_DIAGNOSTICS_BYTES,
    MAX_RESULT_BYTES,
    BuildRequest,
    read_result,
    read_warnings,
    run,
)
from ebpf_userspace_exporter.worker.image import Image
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_VERIFY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Built:
    """An image, and what its builder warned of."""

    image: Image
    warnings: tuple[str, ...]


def build(request: BuildRequest) -> Built:
    """Return what is built for a process or a binary; AttachError with clang's own words, TargetGone."""
    result_fd, diagnostics_fd = os.memfd_create("image"), os.memfd_create("diagnostics")
    try:
        exit_code = _run_child(
            "exporter-build",
            lambda: run(request, result_fd, diagnostics_fd),
            keep=(result_fd, diagnostics_fd),
            seconds=BUILD_SECONDS,
        )
        diagnostics = os.pread(diagnostics_fd, MAX_DIAGNOSTICS_BYTES, 0)
        if exit_code is None:
            message = f"no image after {BUILD_SECONDS:.0f} s"
            raise AttachError(Reason.BUILDER_TIMEOUT, message, diagnostics.decode(errors="replace"))
        image = read_result(os.pread(result_fd, MAX_RESULT_BYTES + 1, 0), diagnostics, exit_code)
        return Built(image, read_warnings(diagnostics))
    finally:
        os.close(result_fd)
        os.close(diagnostics_fd)


def verify(image: Image) -> None:
    """Make the image's maps and have its functions verified; AttachError with the verifier's words, PERMISSION."""
    answer_fd = os.memfd_create("answer")
    try:
        exit_code = _run_child(
            "exporter-verify", lambda: _load(image, answer_fd), keep=(answer_fd,), seconds=_VERIFY_SECONDS
        )
        answer = os.pread(answer_fd, 1 << 20, 0)
    finally:
        os.close(answer_fd)
    if answer:
        reason, message, diagnostics = json.loads(answer)
        raise AttachError(Reason(reason), message, diagnostics)
    if exit_code is None:
        raise AttachError(Reason.WORKER_TIMEOUT, f"not verified after {_VERIFY_SECONDS:.0f} s")
    if exit_code != 0:
        raise AttachError(Reason.WORKER_DIED, f"the verifying process ended with {children.describe_exit(exit_code)}")


def _load(image: Image, answer_fd: int) -> None:
    """In the child: what it makes is gone when it exits."""
    try:
        maps = {shape.built_fd: create_map(shape) for shape in image.maps}
        for function in image.functions:
            os.close(load_program(function, maps, uprobe_multi=False))
    except AttachError as error:
        answer = json.dumps((error.reason, error.message, error.diagnostics))
        os.write(answer_fd, answer.encode())


def _run_child(name: str, work: Callable[[], None], *, keep: Collection[int], seconds: float) -> int | None:
    """Return the exit code of a child that does the work, None if it was killed for taking longer."""
    pid = children.spawn(name, work, keep=keep)
    pidfd = os.pidfd_open(pid)
    try:
        is_late = not _wait(pidfd, seconds)
    except BaseException:  # Ctrl-C is sent to us alone
        children.kill(pid)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(pidfd)
    if is_late:
        children.kill(pid)
    _, status = os.waitpid(pid, 0)
    exit_code = os.waitstatus_to_exitcode(status)
    return None if is_late and exit_code == -signal.SIGKILL else exit_code


def _wait(pidfd: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
