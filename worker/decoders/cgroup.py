"""A cgroup's id, as bpf_get_current_cgroup_id() gives it."""

from collections.abc import Callable

from ebpf_userspace_exporter.worker.decoders.number import as_number


class Cgroup:
    """Gives cgroups the paths that `path_of` has for their ids."""

    def __init__(self, path_of: Callable[[int], str | None]) -> None:
        self._path_of = path_of

    def __call__(self, raw: bytes) -> str:
        """Return 8 bytes as the cgroup's path, `unknown:ID` if it has none; DecodeError for other sizes."""
        cgroup_id = as_number("cgroup", raw, 8, signed=False)
        return self._path_of(cgroup_id) or f"unknown:{cgroup_id}"
