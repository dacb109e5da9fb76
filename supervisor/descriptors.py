"""The limit of open files, and what is kept free of it for the supervisor's own work."""

import errno
import os
import resource

from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

# For reading /proc, forking, builders, clients and files: without them nothing at all would go on.
SPARE_DESCRIPTORS = 128


def raise_limit() -> None:
    """Take as many descriptors as are allowed: each target needs one a map, one a link and two more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def few_left(descriptor: int) -> bool:
    """Whether the number of a descriptor that was just made, the lowest that was free, shows that few are left."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and descriptor >= limit - min(SPARE_DESCRIPTORS, limit // 4)


def close_all(descriptors: list[int]) -> None:
    """Close them, and leave the list empty."""
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()


def open_pidfd(pid: int) -> int | None:
    """Return a pidfd, None if there is no such process; AttachError where it would be one of the last descriptors."""
    refusal = AttachError(Reason.DESCRIPTORS, "no descriptor left for another target: raise LimitNOFILE")
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise refusal from error
        return None
    if few_left(pidfd):
        os.close(pidfd)
        raise refusal
    return pidfd
