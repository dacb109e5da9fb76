"""A worker's life: make the maps, load, attach, say so, then read the maps whenever asked.

Runs in a forked child that holds nothing but its channel, its target's pidfd and, if it succeeds a dead worker, the
maps and links of that one. It ends when its channel is closed.
"""

import contextlib
import gc
import os
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.bpf.maps import create_map, read_map
from ebpf_userspace_exporter.worker.bpf.programs import load_program, program_tag
from ebpf_userspace_exporter.worker.collect import Collector
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.image import Image
from ebpf_userspace_exporter.worker.kernel import uninterrupted
from ebpf_userspace_exporter.worker.messages import (
    FINISH,
    MAX_DESCRIPTORS,
    Collected,
    Failed,
    Linked,
    MapsMade,
    send,
)
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import TargetGone, open_probed


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one worker is to do; `generation` tells its new files from those of every other worker."""

    program: Program
    pid: int
    image: Image
    directory: Path
    generation: int
    group: int | None
    uprobe_multi: bool
    inherit_values: bool


def run(assignment: Assignment, channel: socket.socket, pidfd: int, maps: Sequence[int], *, attached: bool) -> None:
    """In the worker: serve until the supervisor hangs up; `maps` and `attached` are a predecessor's."""
    gc.freeze()
    # It may hang up at any moment, whatever it has asked for before: then nobody wants the answer any more.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _live(assignment, channel, pidfd, maps, attached=attached)


def _live(assignment: Assignment, channel: socket.socket, pidfd: int, maps: Sequence[int], *, attached: bool) -> None:
    try:
        if not maps:
            maps = _make_maps(assignment.image, channel)
        if not attached:
            _attach(assignment, channel, pidfd, maps)
    except AttachError as error:
        send(channel, Failed(error.reason, error.message, error.diagnostics))
        return
    except TargetGone as error:
        send(channel, Failed(Reason.TARGET_CHANGED, str(error)))
        return
    _serve(assignment, channel, maps)


def _make_maps(image: Image, channel: socket.socket) -> list[int]:
    """Create the maps and hand them over before anything counts into them."""
    maps = [create_map(shape) for shape in image.maps]
    send(channel, MapsMade(), maps)
    return maps


def _attach(assignment: Assignment, channel: socket.socket, pidfd: int, maps: Sequence[int]) -> None:
    """Load and attach, and hand the links over, so that they outlive this process."""
    image, pid = assignment.image, assignment.pid
    patches = {shape.built_fd: map_fd for shape, map_fd in zip(image.maps, maps, strict=True)}
    programs = {
        function.name: load_program(function, patches, uprobe_multi=assignment.uprobe_multi)
        for function in image.functions
    }
    files = [open_probed(pid, file) for file in image.files]
    with uninterrupted():
        links = attach(programs, image.probes, files, pid, uprobe_multi=assignment.uprobe_multi)
    if select.select([pidfd], [], [], 0)[0]:
        # Whoever has this number now is not who was looked at.
        raise AttachError(Reason.TARGET_CHANGED, f"process {pid} exited while it was attached")
    tags = {name: program_tag(descriptor) for name, descriptor in programs.items()}
    for descriptor in (*files, *programs.values()):
        os.close(descriptor)
    for start in range(0, len(links), MAX_DESCRIPTORS):
        end = start + MAX_DESCRIPTORS
        send(channel, Linked(tags, more=end < len(links)), links[start:end])


def _serve(assignment: Assignment, channel: socket.socket, maps: Sequence[int]) -> None:
    tables = {shape.name: (map_fd, shape) for shape, map_fd in zip(assignment.image.maps, maps, strict=True)}
    collector = Collector(
        assignment.program,
        assignment.pid,
        assignment.directory,
        labels=[("pid", str(assignment.pid))],
        surroundings=Surroundings(assignment.pid, _Addresses(), _no_stack),
        generation=assignment.generation,
        group=assignment.group,
        inherit=assignment.inherit_values,
    )

    def collect(sequence: int, *, final: bool) -> None:
        report = collector.collect(lambda table: read_map(*tables[table]), assignment.program.max_series)
        send(
            channel,
            Collected(sequence, report.publish, report.decode_errors, report.dropped, report.messages, final=final),
        )

    with contextlib.closing(collector):
        collect(0, final=False)
        while request := channel.recv(64):
            if request == FINISH:
                collect(0, final=True)
            else:
                collect(int(request.split()[1]), final=False)


class _Addresses:
    """Names nothing."""

    def name(self, address: int) -> str:
        return hex(address)


def _no_stack(table: str, stack_id: int) -> tuple[int, ...]:
    raise KeyError(table, stack_id)
