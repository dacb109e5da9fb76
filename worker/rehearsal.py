"""What every worker does, done once before the first is forked.

A worker has for itself what it writes, and the first time through any code writes more than all later ones: Python
adapts bytecode and fills caches of types and attributes, ctypes makes types. Done here, that memory is shared.
"""

import ctypes
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ebpf_userspace_exporter.config.model import Counter, Histogram, Program
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapElement, bpf
from ebpf_userspace_exporter.worker.image import Image, MapShape
from ebpf_userspace_exporter.worker.process import Assignment, run

_LEAF_BYTES = 8


def rehearse(program: Program, directory: Path) -> None:
    """Serve a program from maps of one row into an empty folder, without loading and attaching: the self-test did that.

    In the supervisor. OSError or AttachError where it cannot be done.
    """
    metrics: list[Counter | Histogram] = [*program.metrics.counters, *program.metrics.histograms]
    image = Image(functions=(), maps=_shapes(metrics), files=(), probes=())
    with ExitStack() as stack:
        maps = []
        for shape in image.maps:
            maps.append(create_map(shape))
            stack.callback(os.close, maps[-1])
            _put_row(maps[-1], shape)
        ours, theirs = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        # All requests are there before it begins, then the end: it never waits.
        ours.send(b"refresh 1")
        ours.shutdown(socket.SHUT_WR)
        assignment = Assignment(
            program=program,
            pid=os.getpid(),
            image=image,
            directory=directory,
            generation=1,
            group=None,
            uprobe_multi=False,
            inherit_values=False,
        )
        run(assignment, theirs, -1, maps, attached=True)


def _shapes(metrics: Sequence[Counter | Histogram]) -> tuple[MapShape, ...]:
    """Return one map for each table; without labels any key will do."""
    key_bytes = {
        metric.table: sum(label.size + label.padding for label in metric.labels) or _LEAF_BYTES for metric in metrics
    }
    return tuple(MapShape(table, MapKind.HASH, size, _LEAF_BYTES, 1, 0, 0) for table, size in key_bytes.items())


def _put_row(map_fd: int, shape: MapShape) -> None:
    key, leaf = ctypes.create_string_buffer(shape.key_bytes), ctypes.c_uint64(1)
    row = MapElement(map_fd=map_fd, key=ctypes.addressof(key), value=ctypes.addressof(leaf))
    bpf(Command.MAP_UPDATE_ELEM, row)
