"""Selectors on programs that people run, and on processes that become what they are only later."""

import glob
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.supervisor.matching import Matcher, definitions
from ebpf_userspace_exporter.supervisor.processes import process_table
from tests.product.exporter import comm, until
from tests.supervisor.selection.living import children_of, living, selector_of

RESCAN_SECONDS = 10.0
NOT_A_PROCESS = 900_000_001


def matcher(keys: dict[str, Any]) -> Matcher:
    wanted = definitions([Program(name="p", attachment=selector_of(keys), target_labels={}, code="")])
    return Matcher(wanted, rescan_seconds=RESCAN_SECONDS)


def targets(looking: Matcher, *, among: set[int], now: float | None = None) -> dict[int, dict[str, str]]:
    """Look at the processes; return the labels of those targets that are the test's own."""
    found = looking.look(process_table(), time.monotonic() if now is None else now, NOT_A_PROCESS).targets
    return {slot.pid: dict(target.labels) for slot, target in found.items() if slot.pid in among}


def test_gunicorn_workers_are_told_from_their_master(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def app(environ, start_response):\n    return []\n")
    gunicorn = str(Path(sys.executable).parent / "gunicorn")
    socket = f"unix:{tmp_path}/socket"
    command = [
        gunicorn,
        "--workers=3",
        f"--bind={socket}",
        "--no-control-socket",
        f"--pythonpath={tmp_path}",
        "shop:app",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd="/") as master:
        try:
            until(lambda: len(children_of(master.pid)) == 3, "gunicorn has its workers")
            workers = set(children_of(master.pid))
            until(lambda: {comm(pid) for pid in workers} == {"gunicorn"}, "and they have their name")
            everyone = {master.pid, *workers}

            assert set(targets(matcher({"binary_name": "gunicorn"}), among=everyone)) == everyone
            only_workers = matcher({"binary_name": "gunicorn", "parent": {"binary_name": "gunicorn"}})
            assert set(targets(only_workers, among=everyone)) == workers
            only_master = matcher({"binary_name": "gunicorn", "not": {"parent": {"binary_name": "gunicorn"}}})
            assert set(targets(only_master, among=everyone)) == {master.pid}
        finally:
            master.terminate()


@pytest.fixture
def postgres() -> Iterator[int]:
    """A PostgreSQL of ours; its first process."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))  # noqa: PTH207 - a pattern with a folder in it
    if not found:
        pytest.skip("PostgreSQL is not installed")
    directory = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    try:
        shutil.chown(directory, "postgres", "postgres")
        cluster = f"{directory}/cluster"
        initdb = [f"{found[-1]}/initdb", "--no-sync", "--auth=trust", "--pgdata", cluster]
        subprocess.run(initdb, user="postgres", group="postgres", cwd="/", check=True, capture_output=True)
        command = [f"{found[-1]}/postgres", "-D", cluster, "-k", str(directory), "-c", "listen_addresses="]
        with subprocess.Popen(
            command, user="postgres", group="postgres", cwd="/", stderr=subprocess.DEVNULL
        ) as postmaster:
            try:
                yield postmaster.pid
            finally:
                postmaster.terminate()
                postmaster.wait(60)
    finally:
        shutil.rmtree(directory)


def test_checkpointer_of_postgresql_is_found_by_its_title(postgres: int) -> None:
    looking = matcher({"binary_name": "postgres", "user": "postgres", "cmdline": r"postgres: (?P<role>checkpointer)"})

    def found() -> dict[int, dict[str, str]]:
        return targets(looking, among={postgres, *children_of(postgres)})

    [(pid, labels)] = until(found, "the checkpointer has its title").items()

    assert labels == {"role": "checkpointer"}
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"postgres: checkpointer")
    titled = matcher({"argv0": "postgres: *", "parent": {"argv0": "*/postgres"}})

    def children_with_titles() -> set[int]:
        children = set(children_of(postgres))
        found = set(targets(titled, among={postgres, *children}))
        return found if found == children and len(children) > 2 else set()

    assert pid in until(children_with_titles, "every child has its title, and the first process has none")


def test_program_in_another_mount_namespace_is_found_by_where_it_is_there(tmp_path: Path) -> None:
    tool = shutil.copy(shutil.which("cat") or "cat", tmp_path / "tool")
    script = f"mount --bind {tmp_path} /mnt && exec /mnt/tool"
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE) as inside:
        with subprocess.Popen([tool], stdin=subprocess.PIPE) as outside:
            everyone = {inside.pid, outside.pid}
            until(lambda: {comm(pid) for pid in everyone} == {"tool"}, "both execute it")

            assert set(targets(matcher({"exe": "/mnt/tool"}), among=everyone)) == {inside.pid}
            assert set(targets(matcher({"exe": str(tool)}), among=everyone)) == {outside.pid}
            outside.communicate()
        inside.communicate()


def test_program_behind_a_wrapper_is_found_as_soon_as_it_is_executed(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text("#!/bin/sh\nread -r go\nexec sleep 600\n")
    wrapper.chmod(0o755)
    looking, now = matcher({"exe": "*/sleep"}), time.monotonic()
    with subprocess.Popen([wrapper], stdin=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: comm(process.pid) == "wrapper", "the wrapper runs")
            assert targets(looking, among={process.pid}, now=now) == {}

            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            until(lambda: comm(process.pid) == "sleep", "the program runs")

            assert set(targets(looking, among={process.pid}, now=now)) == {process.pid}
        finally:
            process.kill()


def test_library_that_is_loaded_late_is_found_at_the_next_rescan() -> None:
    looking, now = matcher({"binary_name": "specimen", "library": "*/libbz2.so*"}), time.monotonic() + 3600
    with living() as process:
        assert targets(looking, among={process.pid}, now=now) == {}

        process.do("import ctypes; ctypes.CDLL('libbz2.so.1.0')")

        assert targets(looking, among={process.pid}, now=now + RESCAN_SECONDS - 1) == {}
        assert set(targets(looking, among={process.pid}, now=now + RESCAN_SECONDS)) == {process.pid}


def test_user_that_is_changed_after_the_start_is_found() -> None:
    looking, now = matcher({"binary_name": "specimen", "user": "nobody"}), time.monotonic() + 3600
    with living() as process:
        assert targets(looking, among={process.pid}, now=now) == {}

        process.do("import os; os.setresuid(65534, 65534, 65534)")

        assert set(targets(looking, among={process.pid}, now=now + RESCAN_SECONDS)) == {process.pid}


def test_process_that_is_gone_at_the_next_look_is_no_target() -> None:
    looking = matcher({"binary_name": "specimen", "exe": "*"})
    with living() as process:
        table = process_table()
        assert set(targets(looking, among={process.pid})) == {process.pid}

    found = looking.look(table, time.monotonic(), os.getpid() + NOT_A_PROCESS)

    assert process.pid not in {slot.pid for slot in found.targets}
    assert process.pid in {slot.pid for slot in found.unreadable}
