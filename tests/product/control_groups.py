"""Processes in control groups that are made for them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.product.exporter import until

_HIERARCHY = Path("/sys/fs/cgroup/systemd")
TOP = f"/grouped{os.getpid()}"  # below which they are


def in_group(path: str) -> tuple[str, ...]:
    """Return what starts a command in the control group of that path below TOP."""
    folder = f"{_HIERARCHY}{TOP}/{path}"
    return "sh", "-c", f'mkdir -p {folder} && echo $$ > {folder}/cgroup.procs && exec "$0" "$@"'


@contextlib.contextmanager
def groups_removed() -> Iterator[None]:
    """Remove the control groups in the end, when the processes in them are gone."""
    try:
        yield
    finally:
        folders = [Path(folder) for folder, _, _ in os.walk(f"{_HIERARCHY}{TOP}", topdown=False)]
        for folder in folders:
            until(lambda folder=folder: not (folder / "cgroup.procs").read_text(), "the group is empty")  # type: ignore[misc]
            folder.rmdir()
