"""A worker's life: make the maps, load, attach, say so, then read the maps whenever asked, and events as they come.

Runs in a forked child that holds nothing but its channel, its target's pidfd and, if it succeeds a dead worker, the
maps, programs and links of that one. It ends when its channel is closed.
"""

import contextlib
import gc
import json
import os
import select
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.bpf.closing import close_at_exit
from ebpf_userspace_exporter.worker.bpf.events import EventBuffer
from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.bpf.maps import create_map
from ebpf_userspace_exporter.worker.bpf.programs import load_program, program_tag
from ebpf_userspace_exporter.worker.bpf.usage import function_usage
from ebpf_userspace_exporter.worker.collect import Collector
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.hotspot import check_flags
from ebpf_userspace_exporter.worker.image import Image
from ebpf_userspace_exporter.worker.intake import Intake
from ebpf_userspace_exporter.worker.kernel import uninterrupted
from ebpf_userspace_exporter.worker.messages import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE_BYTES,
    Collected,
    Failed,
    Linked,
    Loaded,
    MapsMade,
    Request,
    parse_request,
    send,
)
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.tables import Tables
from ebpf_userspace_exporter.worker.target_files import TargetGone, open_probed
from ebpf_userspace_exporter.worker.target_surroundings import look_around

_TURN_SECONDS = 0.02  # of taking events before the channel is looked at again
_REFRESH_SECONDS = 0.2  # of taking events before an answer: a scrape waits for up to 1 s
_LAST_SECONDS = 2.0
_OWN = ("pid", "generation", "inherit_values", "labels", "max_series")  # what a template lacks


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one worker is to do; `generation` tells its new files from those of every other worker.

    `labels` are the target's, names and texts; `max_series` is how many label sets to show unless a request says so.
    """

    program: Program
    pid: int
    image: Image
    directory: Path
    generation: int
    group: int | None
    uprobe_multi: bool
    inherit_values: bool
    labels: tuple[tuple[str, str], ...]
    max_series: int


def template_of(assignment: Assignment) -> Assignment:
    """Return what it has in common with the assignments of all workers with the same image."""
    return replace(assignment, pid=0, generation=0, inherit_values=False, labels=(), max_series=0)


def assign(channel: socket.socket, assignment: Assignment, pidfd: int) -> None:
    """In the supervisor: give an assignment to a process that runs `run_assigned` with its template; OSError."""
    own = {name: getattr(assignment, name) for name in _OWN}
    socket.send_fds(channel, [json.dumps(own).encode()], [pidfd])


def run_assigned(channel: socket.socket, template: Assignment) -> None:
    """In the worker: wait for an assignment of this kind, and do it without a predecessor; nothing after a hang-up."""
    packet, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, 1)
    if descriptors:
        own = json.loads(packet)
        own["labels"] = tuple((name, text) for name, text in own["labels"])
        run(replace(template, **own), channel, descriptors[0], (), (), attached=False)


def run(
    assignment: Assignment,
    channel: socket.socket,
    pidfd: int,
    maps: Sequence[int],
    programs: Sequence[int],
    *,
    links: Sequence[int] = (),
    attached: bool,
) -> None:
    """In the worker: serve until the supervisor hangs up, then detach.

    `maps`, `programs`, `links` and `attached` are a predecessor's.
    """
    gc.freeze()
    # It may hang up at any moment, whatever it has asked for before: then nobody wants the answer any more.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError), contextlib.ExitStack() as stack:
        held = list(links)
        stack.callback(close_at_exit, held)
        stack.callback(channel.close)  # who sees it closed knows that the links may be closed too
        try:
            if not maps:
                maps = _make_maps(assignment.image, channel)
            sources = _open_sources(assignment, maps, stack)
            if not attached:
                programs = _attach(assignment, channel, pidfd, maps, held)
        except AttachError as error:
            send(channel, Failed(error.reason, error.message, error.diagnostics))
        except TargetGone as error:
            send(channel, Failed(Reason.TARGET_CHANGED, str(error)))
        else:
            # A predecessor that was to read one last time has loaded none.
            names = [function.name for function in assignment.image.functions] if programs else []
            _serve(assignment, channel, sources, dict(zip(names, programs, strict=True)))


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where the numbers and the labels' texts come from."""

    tables: Tables
    buffers: Sequence[tuple[str, EventBuffer]]
    surroundings: Surroundings


def _open_sources(assignment: Assignment, maps: Sequence[int], stack: contextlib.ExitStack) -> _Sources:
    """Open what must be there before anything counts: an event that finds no buffer is lost.

    And before the target may be gone, when it is asked for the name of an address. All is closed with `stack`.
    """
    program = assignment.program
    tables = Tables(assignment.image.maps, maps, wanted={metric.table for metric in program.metrics.all})
    buffers = tables.open_event_buffers()
    for _, buffer in buffers:
        stack.callback(buffer.close)
    return _Sources(tables, buffers, look_around(program, assignment.pid, tables.read_stack, stack))


def _make_maps(image: Image, channel: socket.socket) -> list[int]:
    """Create the maps and hand them over before anything counts into them."""
    maps = [create_map(shape) for shape in image.maps]
    send(channel, MapsMade(), maps)
    return maps


def _attach(
    assignment: Assignment, channel: socket.socket, pidfd: int, maps: Sequence[int], links: list[int]
) -> list[int]:
    """Load and attach, and hand programs and links over, so that they outlive this process; return the programs.

    The links come into `links`, also where nobody is left to take them.
    """
    image, pid = assignment.image, assignment.pid
    check_flags(assignment.program.usdt, pid)
    patches = {shape.built_fd: map_fd for shape, map_fd in zip(image.maps, maps, strict=True)}
    programs = {
        function.name: load_program(function, patches, uprobe_multi=assignment.uprobe_multi)
        for function in image.functions
    }
    tags = {name: program_tag(descriptor) for name, descriptor in programs.items()}
    send(channel, Loaded(tags), list(programs.values()))
    files = [open_probed(pid, file) for file in image.files]
    with uninterrupted():
        links += attach(programs, image.probes, files, pid, uprobe_multi=assignment.uprobe_multi)
    if _has_exited(pidfd):
        # Whoever has this number now is not who was looked at.
        raise AttachError(Reason.TARGET_CHANGED, f"process {pid} exited while it was attached")
    for descriptor in files:
        os.close(descriptor)
    for start in range(0, len(links), MAX_DESCRIPTORS):
        end = start + MAX_DESCRIPTORS
        send(channel, Linked(more=end < len(links)), links[start:end])
    return list(programs.values())


def _has_exited(pidfd: int) -> bool:
    poll = select.poll()  # select(2) takes no descriptor above 1023, and the supervisor has thousands
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _serve(assignment: Assignment, channel: socket.socket, sources: _Sources, functions: Mapping[str, int]) -> None:
    tables = sources.tables
    collector = Collector(
        assignment.program,
        assignment.pid,
        assignment.directory,
        labels=assignment.labels,
        surroundings=sources.surroundings,
        generation=assignment.generation,
        group=assignment.group,
        inherit=assignment.inherit_values,
        event_tables=tables.event_tables,
    )
    intake = Intake(sources.buffers, collector.take_event)

    def collect(request: Request) -> None:
        intake.take(_LAST_SECONDS if request.final else _REFRESH_SECONDS)
        report = collector.collect(tables.read, request.max_series)
        usages = {name: function_usage(descriptor) for name, descriptor in functions.items()}
        message = Collected(
            request.sequence,
            report.publish,
            report.decode_errors,
            report.dropped,
            report.messages,
            series=report.series,
            maps=tables.usage(),
            functions={name: usage for name, usage in usages.items() if usage.runs},
            lost_events=tables.lost_events(),
            final=request.final,
        )
        send(channel, message)

    with contextlib.closing(collector):
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        for _, buffer in sources.buffers:
            poll.register(buffer.descriptor, select.POLLIN)
        collect(Request(0, assignment.max_series, final=False))
        while True:
            ready = poll.poll(0 if intake.is_behind else None)
            if not any(descriptor == channel.fileno() for descriptor, _ in ready):
                intake.take(_TURN_SECONDS)
                collector.keep_events()
            elif words := channel.recv(64):
                collect(parse_request(words, assignment.max_series))
            else:
                return
