"""What every worker does, done before the first is forked.

A worker has for itself what it writes, and the first time through any code writes more than all later ones: Python
adapts bytecode and fills caches of types and attributes, ctypes makes types. Done here, that memory is shared.
"""

import ctypes
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ebpf_userspace_exporter.config.model import Counter, Gauge, Histogram, Program
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map, leaf_copies, leaf_stride
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapElement, bpf
from ebpf_userspace_exporter.worker.image import Function, Image, MapShape
from ebpf_userspace_exporter.worker.process import Assignment, assign, run, run_assigned, template_of

_VALUE_BYTES = 8
_FUNCTION = Function("rehearsal", bytes.fromhex("b700000000000000 9500000000000000"))  # r0 = 0; exit


def rehearse(program: Program, directory: Path) -> None:
    """Do what a worker for the program does, into an empty folder, but for attaching: that takes long.

    In the fork server. OSError or AttachError where it cannot be done.
    """
    before = _descriptors()
    try:
        _begin(program, directory)
        _serve_rows(program, directory)
    finally:
        for descriptor in _descriptors() - before:  # what a worker leaves to its exit
            os.close(descriptor)


def _begin(program: Program, directory: Path) -> None:
    """Take an assignment, make the maps, load a function, and serve."""
    tables = _tables(program)
    image = Image(functions=(_FUNCTION,), maps=tuple(_shape(*table) for table in tables.items()), files=(), probes=())
    assignment = _assignment(program, image, directory)
    with _channel() as (ours, theirs):
        assign(ours, assignment, os.pidfd_open(os.getpid()))
        _ask(ours)
        run_assigned(theirs, template_of(assignment))


def _serve_rows(program: Program, directory: Path) -> None:
    """Serve from maps of one row, as a successor does."""
    tables = _tables(program)
    image = Image(functions=(), maps=tuple(_shape(*table) for table in tables.items()), files=(), probes=())
    maps = []
    for shape in image.maps:
        maps.append(create_map(shape))
        _put_row(maps[-1], shape, map(_offset, tables[shape.name]))
    with _channel() as (ours, theirs):
        _ask(ours)
        run(_assignment(program, image, directory), theirs, -1, maps, (), attached=True)


@contextmanager
def _channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def _ask(ours: socket.socket) -> None:
    """Ask once, then hang up: all is there before it is asked for, so that nobody waits."""
    ours.send(b"refresh 1")
    ours.shutdown(socket.SHUT_WR)


def _tables(program: Program) -> dict[str, list[Counter | Gauge | Histogram]]:
    tables: dict[str, list[Counter | Gauge | Histogram]] = {}
    for metric in program.metrics.all:
        tables.setdefault(metric.table, []).append(metric)
    return tables


def _assignment(program: Program, image: Image, directory: Path) -> Assignment:
    return Assignment(
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


def _descriptors() -> set[int]:
    listed = list(Path("/proc/self/fd").iterdir())
    return {int(path.name) for path in listed if path.is_symlink()}  # not the one with which they were listed
