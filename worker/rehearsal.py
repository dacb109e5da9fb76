"""What every worker does, done once before the first is forked.

A worker has for itself what it writes, and the first time through any code writes more than all later ones: Python
adapts bytecode and fills caches of types and attributes, ctypes makes types. Done here, that memory is shared.
"""

import ctypes
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from ebpf_userspace_exporter.config.model import Counter, Gauge, Histogram, Program
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map, leaf_copies, leaf_stride
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapElement, bpf
from ebpf_userspace_exporter.worker.image import Image, MapShape
from ebpf_userspace_exporter.worker.process import Assignment, run

_VALUE_BYTES = 8


def rehearse(program: Program, directory: Path) -> None:
    """Serve a program from maps of one row into an empty folder, without loading and attaching: the self-test did that.

    In the supervisor. OSError or AttachError where it cannot be done.
    """
    tables: dict[str, list[Counter | Gauge | Histogram]] = {}
    for metric in program.metrics.all:
        tables.setdefault(metric.table, []).append(metric)
    image = Image(functions=(), maps=tuple(_shape(*table) for table in tables.items()), files=(), probes=())
    with ExitStack() as stack:
        maps = []
        for shape in image.maps:
            maps.append(create_map(shape))
            stack.callback(os.close, maps[-1])
            _put_row(maps[-1], shape, map(_offset, tables[shape.name]))
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
            labels=(("pid", str(os.getpid())),),
            max_series=program.max_series,
        )
        run(assignment, theirs, -1, maps, (), attached=True)


def _shape(table: str, metrics: Sequence[Counter | Gauge | Histogram]) -> MapShape:
    """Return a map that will do for these metrics; without labels any key will."""
    key_bytes = max(sum(label.size + label.padding for label in metric.labels) for metric in metrics) or _VALUE_BYTES
    leaf_bytes = max(map(_offset, metrics)) + _VALUE_BYTES
    kind = MapKind.PERCPU_HASH if any(label.is_cpu for metric in metrics for label in metric.labels) else MapKind.HASH
    return MapShape(table, kind, key_bytes, leaf_bytes, max_entries=1, flags=0, built_fd=0)


def _offset(metric: Counter | Gauge | Histogram) -> int:
    return 0 if isinstance(metric, Histogram) else metric.value_offset


def _put_row(map_fd: int, shape: MapShape, offsets: Iterable[int]) -> None:
    """Make each value 1, for a per-CPU map on the first CPU."""
    key, leaf = ctypes.create_string_buffer(shape.key_bytes), bytearray(leaf_stride(shape) * leaf_copies(shape))
    for offset in offsets:
        leaf[offset] = 1
    leaves = ctypes.create_string_buffer(bytes(leaf), len(leaf))
    row = MapElement(map_fd=map_fd, key=ctypes.addressof(key), value=ctypes.addressof(leaves))
    bpf(Command.MAP_UPDATE_ELEM, row)
