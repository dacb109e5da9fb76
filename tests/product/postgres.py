"""Debian's PostgreSQL: a cluster in a folder of its own, reached through a Unix socket."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.product.exporter import until

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running cluster; every process of it has `name` in its title, but for the first one."""

    name: str
    folder: Path

    def query(self, statement: str) -> str:
        """Run a statement in a session of its own; return what it selects."""
        command = ["psql", "-h", str(self.folder), "-d", "postgres", "-XAtqc", statement]
        return _run(*command, check=True).stdout.strip()

    def answers(self) -> bool:
        """Whether sessions can be had."""
        return _run("pg_isready", "-q", "-h", str(self.folder)).returncode == 0

    def pid_of(self, role: str) -> int:
        """Return the pid of the process that has that role, in PostgreSQL's own words."""
        lines = self.query("select backend_type, pid from pg_stat_activity").splitlines()
        return int(dict(line.split("|") for line in lines)[role])


@contextlib.contextmanager
def postgres(name: str, **settings: str) -> Iterator[Postgres]:
    """Run a new cluster of that name, with more settings, as the user postgres; it answers when this begins."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        _run("initdb", "-D", str(data), "--auth=trust", "--no-sync", "--no-instructions", check=True)
        options = {"listen_addresses": "", "unix_socket_directories": folder, "cluster_name": name, "fsync": "off"}
        options |= settings
        command = [_path("postgres"), "-D", str(data), *(f"--{key}={value}" for key, value in options.items())]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd="/", user="postgres", group="postgres", extra_groups=[], stdout=log, stderr=log
            )
        try:
            cluster = Postgres(name, folder)
            until(cluster.answers, "PostgreSQL answers")
            yield cluster
        finally:
            process.terminate()
            process.wait(20)
    finally:
        shutil.rmtree(folder)


def _run(program: str, *arguments: str, check: bool = False) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [_path(program), *arguments],
        user="postgres",
        group="postgres",
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=check,
        timeout=60,
    )


def _path(program: str) -> str:
    assert BINARIES is not None, "PostgreSQL is not installed"
    return str(BINARIES / program)
