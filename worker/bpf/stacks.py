"""Stacks that a program took with bpf_get_stackid."""

import ctypes
import struct
from itertools import takewhile

from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapElement, bpf


def read_stack(map_fd: int, leaf_bytes: int, stack_id: int) -> tuple[int, ...]:
    """Return the addresses of a stack in a map of the kind STACK_TRACE, the innermost first; KeyError if it is gone.

    The leaf has 8 bytes for each frame that there may be; zeros follow the last one.
    """
    if not 0 <= stack_id < 1 << 32:
        raise KeyError(stack_id)
    key, leaf = ctypes.c_uint32(stack_id), ctypes.create_string_buffer(leaf_bytes)
    attributes = MapElement(map_fd=map_fd, key=ctypes.addressof(key), value=ctypes.addressof(leaf))
    try:
        bpf(Command.MAP_LOOKUP_ELEM, attributes)
    except FileNotFoundError as error:
        raise KeyError(stack_id) from error
    return tuple(takewhile(bool, struct.unpack(f"={leaf_bytes // 8}Q", leaf.raw)))
