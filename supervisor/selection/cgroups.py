"""What the control group of a process tells: its path, the systemd unit, the container."""

import re

# Docker, containerd, CRI-O and podman name containers by 64 hexadecimal digits: `docker-ID.scope` where systemd makes
# the group, `…:cri-containerd:ID` where it was meant to, or the bare ID. A conmon is outside of its container.
_CONTAINER = re.compile(r"(?:.*(?<!conmon)[-:])?([0-9a-f]{64})(?:\.scope)?")
_DELETED = " (deleted)"
_UNIFIED, _SYSTEMD = ("0", ""), "name=systemd"


def cgroup_path(content: str) -> str:
    """Return the path that a /proc/PID/cgroup shows, see cgroups(7).

    With several hierarchies it is systemd's, into which container runtimes put their processes too; where the process
    is at the root of that, the first one that it is further down in. The kernel refuses groups with a newline.
    """
    paths: list[tuple[int, str]] = []
    for line in filter(None, content.split("\n")):
        hierarchy, controllers, path = line.split(":", 2)
        rank = 0 if controllers == _SYSTEMD else 1 if (hierarchy, controllers) == _UNIFIED else 2
        paths.append((rank, path.removesuffix(_DELETED)))
    paths.sort(key=lambda ranked: ranked[0])
    return next((path for _, path in paths if path != "/"), "/")


def systemd_unit(path: str) -> str | None:
    """Return the innermost service, else the innermost scope, that the group belongs to."""
    parts = path.split("/")[::-1]
    for ending in (".service", ".scope"):
        for part in parts:
            if part.endswith(ending):
                return part
    return None


def container_id(path: str) -> str | None:
    """Return the 64 digits of the innermost container that the group belongs to."""
    for part in reversed(path.split("/")):
        if match := _CONTAINER.fullmatch(part):
            return match.group(1)
    return None
