"""The limit of open files, and what is kept free of it for the supervisor's own work."""

import resource

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
