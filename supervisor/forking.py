"""Forks what serves an entry: a worker, or a child that only closes links."""

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase, Worker
from ebpf_userspace_exporter.supervisor.fork_server import WORKER_NAME
from ebpf_userspace_exporter.supervisor.newborns import Newborn
from ebpf_userspace_exporter.supervisor.state_dir import StateDir
from ebpf_userspace_exporter.worker import process
from ebpf_userspace_exporter.worker.bpf.closing import close_at_exit
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What all workers are given; `group` is the web's."""

    state_dir: StateDir
    group: int | None
    uprobe_multi: bool


def assign(newborn: Newborn, entry: Entry, settings: WorkerSettings, max_series: int, now: float) -> Worker:
    """Return the newborn as a worker for the entry's present generation, as `fork_worker`, but without predecessor."""
    try:
        process.assign(newborn.channel, assignment_of(entry, settings, max_series), entry.pidfd)
    except OSError:
        newborn.channel.close()
        raise
    return Worker(newborn.pid, newborn.channel, now)


def fork_worker(entry: Entry, settings: WorkerSettings, max_series: int, now: float) -> Worker:
    """Return a worker for the entry's present generation, to be heard on its channel; OSError if none can be forked.

    `max_series` is how many label sets it may show at first.
    """
    holdings = entry.holdings
    assignment = assignment_of(entry, settings, max_series)
    # A last reader finds nobody to attach to, though an exec may have taken the links before the end.
    is_attached = bool(holdings.links) or entry.phase is Phase.FINISHING
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        pid = children.spawn(
            WORKER_NAME,
            lambda: process.run(
                assignment,
                theirs,
                entry.pidfd,
                holdings.maps,
                holdings.programs,
                links=holdings.links,
                attached=is_attached,
            ),
            # It needs the links of a predecessor only to be the last to close them.
            keep=(theirs.fileno(), entry.pidfd, *holdings.maps, *holdings.programs, *holdings.links),
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Worker(pid, ours, now)


def fork_closer(links: Sequence[int], now: float) -> Worker | None:
    """Return a child that holds the links until it exits, which it does at once; None if none can be forked."""
    try:
        pid = children.spawn("exporter-closer", lambda: close_at_exit(links), keep=links)
    except OSError as error:
        logger.warning("no child could be forked to detach: everything waits for it", error=str(error))
        return None
    return Worker(pid, None, now)


def fork_error(error: OSError) -> AttachError:
    """Translate what fork, socketpair and the like can say."""
    match error.errno:
        case errno.EMFILE | errno.ENFILE:
            return AttachError(Reason.DESCRIPTORS, "no descriptor left for a worker: raise LimitNOFILE")
        case errno.ENOMEM | errno.EAGAIN:
            return AttachError(Reason.MEMORY, f"no worker could be forked: {error.strerror}")
        case _:
            return AttachError(Reason.ATTACH, f"no worker could be made: {error}")


def assignment_of(entry: Entry, settings: WorkerSettings, max_series: int) -> process.Assignment:
    """Return what a worker for the entry's present generation is to do."""
    image = entry.holdings.image
    assert image is not None, "a worker is started with an image"  # noqa: S101 - for the type checker
    return process.Assignment(
        program=entry.program,
        pid=entry.slot.pid,
        image=image,
        directory=settings.state_dir.path,
        generation=entry.generation,
        group=settings.group,
        uprobe_multi=settings.uprobe_multi,
        inherit_values=entry.continues_files,
        labels=entry.target.labels,
        max_series=max_series,
    )
