"""bpf(2) and perf_event_open(2): their attributes as in linux/bpf.h and linux/perf_event.h, and the calls themselves.

Attributes may be shorter than the running kernel's: it takes what is missing for 0.
Every descriptor made here is close-on-exec: the kernel makes BPF ones so, perf ones are asked for.
"""

import contextlib
import ctypes
import errno
import functools
import os
import resource
from enum import IntEnum

from ebpf_userspace_exporter.worker.kernel import system_call

_SYSTEM_CALLS = {  # of bpf and perf_event_open
    "x86_64": (321, 298),
    "aarch64": (280, 241),
}
_PERF_FLAG_FD_CLOEXEC = 8

PROG_TYPE_KPROBE = 2
TRACE_UPROBE_MULTI = 48
UPROBE_MULTI_RETURN = 1

_u32, _u64 = ctypes.c_uint32, ctypes.c_uint64


class Command(IntEnum):
    """The commands of bpf(2) that are used here."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_GET_INFO_BY_FD = 15
    MAP_LOOKUP_BATCH = 24
    LINK_CREATE = 28


class MapCreate(ctypes.Structure):
    """Attributes of MAP_CREATE."""

    _fields_ = (
        ("map_type", _u32), ("key_size", _u32), ("value_size", _u32), ("max_entries", _u32), ("map_flags", _u32),
        ("inner_map_fd", _u32), ("numa_node", _u32), ("map_name", ctypes.c_char * 16),
    )  # fmt: skip


class MapElement(ctypes.Structure):
    """Attributes of MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM and, value being the next key, GET_NEXT_KEY."""

    _fields_ = (("map_fd", _u32), ("key", _u64), ("value", _u64), ("flags", _u64))


class MapBatch(ctypes.Structure):
    """Attributes of MAP_LOOKUP_BATCH; `count` goes in as room and comes out as rows."""

    _fields_ = (
        ("in_batch", _u64), ("out_batch", _u64), ("keys", _u64), ("values", _u64), ("count", _u32), ("map_fd", _u32),
        ("elem_flags", _u64), ("flags", _u64),
    )  # fmt: skip


class ProgramLoad(ctypes.Structure):
    """Attributes of PROG_LOAD."""

    _fields_ = (
        ("prog_type", _u32), ("insn_cnt", _u32), ("insns", _u64), ("license", _u64), ("log_level", _u32),
        ("log_size", _u32), ("log_buf", _u64), ("kern_version", _u32), ("prog_flags", _u32),
        ("prog_name", ctypes.c_char * 16), ("prog_ifindex", _u32), ("expected_attach_type", _u32),
    )  # fmt: skip


class ObjectInfo(ctypes.Structure):
    """Attributes of OBJ_GET_INFO_BY_FD."""

    _fields_ = (("bpf_fd", _u32), ("info_len", _u32), ("info", _u64))


class ProgramInfo(ctypes.Structure):
    """The start of struct bpf_prog_info; without room for them the kernel copies neither code nor tables."""

    _fields_ = (
        ("type", _u32), ("id", _u32), ("tag", ctypes.c_uint8 * 8), ("jited_prog_len", _u32),
        ("xlated_prog_len", _u32), ("jited_prog_insns", _u64), ("xlated_prog_insns", _u64), ("load_time", _u64),
        ("created_by_uid", _u32), ("nr_map_ids", _u32), ("map_ids", _u64), ("name", ctypes.c_char * 16),
        ("ifindex", _u32), ("gpl_compatible", _u32), ("netns_dev", _u64), ("netns_ino", _u64),
        ("nr_jited_ksyms", _u32), ("nr_jited_func_lens", _u32), ("jited_ksyms", _u64), ("jited_func_lens", _u64),
        ("btf_id", _u32), ("func_info_rec_size", _u32), ("func_info", _u64), ("nr_func_info", _u32),
        ("nr_line_info", _u32), ("line_info", _u64), ("jited_line_info", _u64), ("nr_jited_line_info", _u32),
        ("line_info_rec_size", _u32), ("jited_line_info_rec_size", _u32), ("nr_prog_tags", _u32),
        ("prog_tags", _u64), ("run_time_ns", _u64), ("run_cnt", _u64),
    )  # fmt: skip


class UprobeMultiLink(ctypes.Structure):
    """Attributes of LINK_CREATE for the attach type UPROBE_MULTI."""

    _fields_ = (
        ("prog_fd", _u32), ("target_fd", _u32), ("attach_type", _u32), ("attach_flags", _u32), ("path", _u64),
        ("offsets", _u64), ("ref_ctr_offsets", _u64), ("cookies", _u64), ("count", _u32), ("flags", _u32),
        ("pid", _u32),
    )  # fmt: skip


class PerfEvent(ctypes.Structure):
    """The start of struct perf_event_attr, up to config2."""

    _fields_ = (
        ("type", _u32), ("size", _u32), ("config", _u64), ("sample_period", _u64), ("sample_type", _u64),
        ("read_format", _u64), ("flags", _u64), ("wakeup_events", _u32), ("bp_type", _u32), ("config1", _u64),
        ("config2", _u64),
    )  # fmt: skip


def bpf(command: Command, attributes: ctypes.Structure) -> int:
    """Return the descriptor that `command` makes, or 0; OSError where the kernel refuses.

    What `attributes` point to must live until the call returns; the kernel may write into both.
    """
    return system_call(_numbers()[0], command, ctypes.addressof(attributes), ctypes.sizeof(attributes))


def bpf_charged(command: Command, attributes: ctypes.Structure) -> int:
    """`bpf` for commands whose memory counts against RLIMIT_MEMLOCK before kernel 5.11, where too little is EPERM."""
    try:
        return bpf(command, attributes)
    except PermissionError as error:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        if error.errno != errno.EPERM or resource.getrlimit(resource.RLIMIT_MEMLOCK) == unlimited:
            raise
        with contextlib.suppress(ValueError, OSError):  # without CAP_SYS_RESOURCE the second try tells the same
            resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    return bpf(command, attributes)


def perf_event_open(event: PerfEvent, pid: int, cpu: int = -1) -> int:
    """Return the descriptor of `event` for the process `pid` on one CPU; -1 for either is any."""
    no_group = -1
    return system_call(_numbers()[1], ctypes.addressof(event), pid, cpu, no_group, _PERF_FLAG_FD_CLOEXEC)


def object_name(name: str) -> bytes:
    """Return `name` as the kernel takes it for a map or a program: 15 bytes of letters, digits and `_`."""
    return bytes(ord(letter) if letter.isascii() and letter.isalnum() else ord("_") for letter in name[:15])


@functools.cache
def _numbers() -> tuple[int, int]:
    machine = os.uname().machine
    if machine not in _SYSTEM_CALLS:
        raise OSError(errno.ENOSYS, f"machine {machine}, expected one of {', '.join(_SYSTEM_CALLS)}")
    return _SYSTEM_CALLS[machine]
