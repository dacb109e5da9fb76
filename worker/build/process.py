"""The builder's process: what it may use, and how its result comes back."""

import ctypes
import os
import re
import resource
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import TypeAdapter, ValidationError

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.build.address_spaces import BinarySpace, ProcessSpace
from ebpf_userspace_exporter.worker.build.builder import build
from ebpf_userspace_exporter.worker.build.hints import clang_advised
from ebpf_userspace_exporter.worker.image import MAX_IMAGE_BYTES, Image, ImageError, decode_image, encode_image
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import TargetGone

_LIMITS = (
    (resource.RLIMIT_AS, 2 << 30),
    (resource.RLIMIT_CPU, 60),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_FSIZE, 64 << 20),
)
_PR_SET_NO_NEW_PRIVS = 38
_EXIT_FAILED = 70  # of ours; clang's is 1
MAX_DIAGNOSTICS_BYTES = 16 << 10
MAX_RESULT_BYTES = MAX_IMAGE_BYTES + 64
_STACK_WORDS = re.compile("BPF stack limit|stack limit of 512")
_HEADERS_WORDS = re.compile("Unable to find kernel headers|chdir\\(.*\\): No such file")
_WARNING = re.compile(r"^(code:[\d:]+ )?warning: .+$", re.MULTILINE)
_MAY_NOT_CREATE = re.compile(r"could not open bpf map: (\w+), error: (Operation not permitted|Permission denied)")
_IMAGE_BEGIN, _FAILURE_BEGIN, _END = b'{"image":', b'{"failure":', b"}"


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build, for which process; `kernel_headers` None lets bcc find them, `scratch` takes its files.

    Where there is a `binary`, it is built for what would execute that, and the pid means nothing.
    """

    program: Program
    pid: int
    kernel_headers: Path | None
    scratch: Path
    binary: Path | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """What `read_result` raises: AttachError, or for the reason None TargetGone."""

    reason: Reason | None
    message: str
    pid: int = 0


_FAILURE = TypeAdapter(_Failure)


def run(request: BuildRequest, result_fd: int, diagnostics_fd: int) -> NoReturn:
    """Build and exit. In the builder, right after the fork; both descriptors are memfds that the supervisor made.

    A kill at any moment leaves nothing behind: nothing is written to the target, and no file but bcc's kheaders.
    """
    try:
        _confine(diagnostics_fd)
        if request.kernel_headers is not None:
            os.environ["BCC_KERNEL_SOURCE"] = str(request.kernel_headers)
        _write(result_fd, _result(request))
    except BaseException:  # a forked child must never return to the supervisor's loop
        traceback.print_exc(file=sys.__stderr__)
        os._exit(_EXIT_FAILED)
    # Not sys.exit: bcc's atexit handlers would detach and free, slowly, what dies with the process anyway.
    os._exit(0)


def read_result(result: bytes, diagnostics: bytes, exit_code: int) -> Image:
    """Return the image that an ended builder left. In the supervisor.

    `result` and `diagnostics` are the memfds' contents, of which MAX_RESULT_BYTES + 1 and MAX_DIAGNOSTICS_BYTES are
    enough; `exit_code` is os.waitstatus_to_exitcode's. Raises AttachError with clang's own words, and TargetGone.
    """
    words = diagnostics[:MAX_DIAGNOSTICS_BYTES].decode(errors="replace").strip()
    if exit_code < 0:
        raise _killed(-exit_code, words)
    if exit_code == 0 and result.startswith(_IMAGE_BEGIN) and len(result) <= MAX_RESULT_BYTES:
        try:
            return decode_image(result[len(_IMAGE_BEGIN) : -len(_END)])
        except ImageError as error:
            raise AttachError(Reason.BUILDER_DIED, f"the builder's result: {error}", words) from error
    if exit_code == 0 and len(result) <= 2 * MAX_DIAGNOSTICS_BYTES:
        raise _failure(result, words)
    if exit_code == 0:
        raise AttachError(Reason.BUILDER_DIED, f"the builder's result has {len(result)} bytes", words)
    if _STACK_WORDS.search(words):
        raise AttachError(Reason.STACK_SIZE, "the code needs more than 512 bytes of BPF stack", words)
    if exit_code != _EXIT_FAILED:  # clang and LLVM end the process on errors of their own
        raise AttachError(Reason.COMPILE, clang_advised(f"clang gave up with exit code {exit_code}", words), words)
    raise AttachError(Reason.BUILDER_DIED, f"the builder failed: {(words.splitlines() or ['no word'])[-1]}", words)


def read_warnings(diagnostics: bytes) -> tuple[str, ...]:
    """Return what a builder that succeeded found worth a warning, one line each, lines counted in the code."""
    words = diagnostics[:MAX_DIAGNOSTICS_BYTES].decode(errors="replace")
    return tuple(dict.fromkeys(match[0] for match in _WARNING.finditer(words)))


def _confine(diagnostics_fd: int) -> None:
    for kind, limit in _LIMITS:
        hard = resource.getrlimit(kind)[1]
        lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lowest, lowest))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    for standard in (1, 2):
        os.dup2(diagnostics_fd, standard)


def _result(request: BuildRequest) -> bytes:
    try:
        space = ProcessSpace(request.pid) if request.binary is None else BinarySpace(request.binary)
        image = build(request.program, space, scratch=request.scratch)
        encoded = encode_image(image)
    except AttachError as error:
        return _encode_failure(_Failure(error.reason, error.message))
    except TargetGone as error:
        return _encode_failure(_Failure(None, str(error), error.pid))
    except MemoryError:
        return _encode_failure(_Failure(Reason.MEMORY, "the builder may use 2 GiB"))
    return _IMAGE_BEGIN + encoded + _END


def _encode_failure(failure: _Failure) -> bytes:
    # Names in ELF files are anybody's: what UTF-8 cannot say becomes "?".
    message = failure.message[: MAX_DIAGNOSTICS_BYTES // 8].encode(errors="replace").decode()
    return _FAILURE_BEGIN + _FAILURE.dump_json(_Failure(failure.reason, message, failure.pid)) + _END


def _failure(result: bytes, words: str) -> AttachError | TargetGone:
    try:
        failure = _FAILURE.validate_json(result[len(_FAILURE_BEGIN) : -len(_END)])
    except ValidationError:
        return AttachError(Reason.BUILDER_DIED, "the builder's result is neither an image nor a failure", words)
    if failure.reason is None:
        return TargetGone(failure.pid)
    if failure.reason is Reason.COMPILE and _HEADERS_WORDS.search(words):
        return AttachError(Reason.HEADERS, "clang found no kernel headers", words)
    if failure.reason is Reason.COMPILE and (refused := _MAY_NOT_CREATE.search(words)):
        return AttachError(Reason.PERMISSION, f"the code compiles; creating map {refused[1]} needs CAP_BPF", words)
    if failure.reason is Reason.COMPILE:
        return AttachError(failure.reason, clang_advised(failure.message, words), words)
    return AttachError(failure.reason, failure.message, words)


def _killed(number: int, words: str) -> AttachError:
    if number == signal.SIGXCPU:
        return AttachError(Reason.BUILDER_TIMEOUT, "the builder used 60 s of CPU time", words)
    name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
    return AttachError(Reason.BUILDER_DIED, f"the builder was ended by {name}", words)


def _write(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]
