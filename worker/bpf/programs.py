"""BPF programs: map references put in, loaded, and where the verifier says no, its words."""

import ctypes
import errno
import os
import struct
from collections.abc import Mapping

from ebpf_userspace_exporter.worker.bpf.errors import attach_error
from ebpf_userspace_exporter.worker.bpf.syscalls import (
    PROG_TYPE_KPROBE,
    TRACE_UPROBE_MULTI,
    Command,
    ObjectInfo,
    ProgramInfo,
    ProgramLoad,
    bpf,
    bpf_charged,
    object_name,
)
from ebpf_userspace_exporter.worker.build.hints import verifier_advised
from ebpf_userspace_exporter.worker.image import Function
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_LICENSE = b"GPL"  # of the code that is loaded: helpers such as bpf_probe_read are for it alone
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2
_INSTRUCTION_BYTES = 8
_LOG_BYTES = (256 << 10, 1 << 20, 4 << 20)
_LOG_FIRST_LINES, _LOG_LAST_LINES = 5, 40  # that are kept: the complaint is at the end
_LOG_KEPT_BYTES = 16 << 10
_NO_COMPLAINTS = ("processed ", "verification time", "cur state:", "old state:")
_ATTEMPTS = 5  # as libbpf: a signal that comes meanwhile makes the verifier give up with EAGAIN
_NOT_THE_CODE = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN})


def load_program(function: Function, maps: Mapping[int, int], *, uprobe_multi: bool) -> int:
    """Return the descriptor of `function`, loaded for links (`uprobe_multi`) or perf events; AttachError if refused.

    `maps` gives for each MapShape.built_fd the descriptor of the map made for it.
    Where the verifier refuses, the error's diagnostics are the beginning and the end of its log. Kernels from 5.0.
    """
    code = _refer_to_maps(function, maps)
    try:
        return _load(function, code, uprobe_multi=uprobe_multi)
    except OSError as error:
        doing = f"load {function.name}"
        if error.errno in _NOT_THE_CODE:
            raise attach_error(error, doing, otherwise=Reason.ATTACH) from error
        # EPERM and EACCES come from the verifier as well as from missing capabilities: a log tells them apart.
        log = _read_verifier_log(function, code, uprobe_multi=uprobe_multi)
        if log:
            message = verifier_advised(f"{doing}: the verifier refuses: {_find_complaint(log)}", log)
            raise AttachError(Reason.VERIFIER, message, log) from error
        raise attach_error(error, doing, otherwise=Reason.VERIFIER) from error


def program_tag(program_fd: int) -> str:
    """Return the kernel's hash over the program's instructions, 16 hexadecimal digits, as bpftool shows it."""
    found = ProgramInfo()
    attributes = ObjectInfo(bpf_fd=program_fd, info_len=ctypes.sizeof(found), info=ctypes.addressof(found))
    bpf(Command.OBJ_GET_INFO_BY_FD, attributes)
    return bytes(found.tag).hex()


def _refer_to_maps(function: Function, maps: Mapping[int, int]) -> bytes:
    """Put our descriptors in place of the builder's; a number that is no map of the image never gets through."""
    code = bytearray(function.bytecode)
    position = 0
    while position < len(code):
        if code[position] != _LD_IMM64:
            position += _INSTRUCTION_BYTES
            continue
        if code[position + 1] >> 4 in {_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE}:
            (built,) = struct.unpack_from("<i", code, position + 4)
            if built not in maps:
                message = f"load {function.name}: instruction {position // 8} refers to a map that is not in the image"
                raise AttachError(Reason.VERIFIER, message)
            struct.pack_into("<i", code, position + 4, maps[built])
        position += 2 * _INSTRUCTION_BYTES
    return bytes(code)


def _load(
    function: Function, code: bytes, *, uprobe_multi: bool, log: "ctypes.Array[ctypes.c_char] | None" = None
) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(_LICENSE)
    attributes = ProgramLoad(
        prog_type=PROG_TYPE_KPROBE,
        insn_cnt=len(code) // _INSTRUCTION_BYTES,
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(license_text),
        log_level=1 if log else 0,
        log_size=len(log) if log else 0,
        log_buf=ctypes.addressof(log) if log else 0,
        prog_name=object_name(function.name),
        expected_attach_type=TRACE_UPROBE_MULTI if uprobe_multi else 0,
    )
    for _ in range(_ATTEMPTS - 1):
        try:
            return bpf_charged(Command.PROG_LOAD, attributes)
        except BlockingIOError:
            continue
    return bpf_charged(Command.PROG_LOAD, attributes)


def _read_verifier_log(function: Function, code: bytes, *, uprobe_multi: bool) -> str:
    """Load again with room for the verifier's log; what does not fit into the largest is lost, its start first."""
    text = ""
    for size in _LOG_BYTES:
        log = ctypes.create_string_buffer(size)
        try:
            program = _load(function, code, uprobe_multi=uprobe_multi, log=log)
        except OSError as error:
            text = _in_short(log.value)
            if error.errno != errno.ENOSPC:
                break
        else:
            os.close(program)
            break
    return text


def _in_short(log: bytes) -> str:
    """Return the log without its middle."""
    lines = log.strip().split(b"\n")
    left_out = len(lines) - _LOG_FIRST_LINES - _LOG_LAST_LINES
    if left_out > 0:
        lines[_LOG_FIRST_LINES:-_LOG_LAST_LINES] = [b"... %d lines ..." % left_out]
    return b"\n".join(lines)[-_LOG_KEPT_BYTES:].decode("utf-8", "replace")


def _find_complaint(log: str) -> str:
    """Return the line that says what is wrong: the last one that is neither statistics nor a state."""
    lines = [line for line in log.splitlines() if line and not line.startswith(_NO_COMPLAINTS)]
    return (lines or [log])[-1][:300]
