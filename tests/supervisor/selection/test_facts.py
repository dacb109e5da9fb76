"""What is read of real processes, among them such that mislead."""

import os
from pathlib import Path

import psutil
import pytest

from ebpf_userspace_exporter.supervisor.processes import process_table
from ebpf_userspace_exporter.supervisor.selection.facts import MAX_CHARACTERS, Facts, Unreadable, user_name
from ebpf_userspace_exporter.supervisor.selection.listening import ListeningSockets
from tests.product.programs import PYTHON
from tests.supervisor.selection.living import FACTS, NOBODY, as_nobody, living

MAX_ARGUMENT_BYTES = 128 * 1024 - 1  # MAX_ARG_STRLEN of the kernel


def facts(pid: int) -> Facts:
    return Facts(process_table()[pid], ListeningSockets())


def test_name_that_looks_like_a_user_is_not_believed() -> None:
    """psutil finds the first `Uid:` in /proc/PID/status, and the name comes before it."""
    with living(name="Uid:\t0\t0\t0", user=NOBODY) as process:
        assert psutil.Process(process.pid).uids().effective == 0
        assert facts(process.pid).uid == NOBODY
        assert facts(process.pid).user == "nobody"


def test_user_without_a_name_is_its_number() -> None:
    with living(user=54321) as process:
        assert facts(process.pid).user == "54321"


def test_user_is_the_effective_one() -> None:
    with living() as process:
        process.do(f"import os; os.setresuid(0, {NOBODY}, 0)")

        assert facts(process.pid).uid == NOBODY


def test_arguments_with_spaces_in_them_are_joined_with_spaces() -> None:
    with living("two words", "", "--last ", "") as process:
        found = facts(process.pid)

        assert found.argv0 == PYTHON
        assert isinstance(found.cmdline, str)
        assert found.cmdline.endswith(" two words  --last")


def test_title_is_the_command_line_and_its_first_word() -> None:
    with living() as process:
        process.set_title("postgres: checkpointer ")

        assert facts(process.pid).cmdline == "postgres: checkpointer"
        assert facts(process.pid).argv0 == "postgres: checkpointer"


def test_of_megabytes_of_arguments_only_what_is_looked_at_is_read() -> None:
    with living(*(["x" * MAX_ARGUMENT_BYTES] * 12)) as process:
        found = facts(process.pid)

        assert isinstance(found.cmdline, str)
        assert len(found.cmdline) == MAX_CHARACTERS
        assert len(found._arguments) == 4 * MAX_CHARACTERS


def test_bytes_that_are_no_text_become_text() -> None:
    with living(b"\xff\xfe", "é", environ={"NAME": os.fsdecode(b"\x80")}) as process:
        found = facts(process.pid)

        assert isinstance(found.cmdline, str)
        assert found.cmdline.endswith(r" \xff\xfe é")
        assert found.variable("NAME") == r"\x80"


def test_variable_is_the_first_of_its_name() -> None:
    environ = {"APP": "shop", "MY_APP": "x", "EMPTY": "", "EQUAL": "a=b"}
    with living(environ=environ) as process:
        found = facts(process.pid)

        assert {name: found.variable(name) for name in environ} == environ
        assert found.variable("AP") is None
        assert found.variable("shop") is None


def test_executable_and_directory_are_as_a_process_in_another_mount_namespace_sees_them(tmp_path: Path) -> None:
    script = f'mount -t tmpfs none /mnt && mkdir /mnt/here && cp {PYTHON} /mnt/tool && cd /mnt/here && exec "$@"'
    with living(
        through=(
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            "/mnt/tool",
            "-Sc",
            "import os, sys; os.execv('/mnt/tool', ['/mnt/tool', *sys.argv[2:]])",
        )
    ) as process:
        assert facts(process.pid).exe == "/mnt/tool"
        assert facts(process.pid).cwd == "/mnt/here"

        process.do("import os; os.unlink('/mnt/tool'); os.rmdir('/mnt/here')")

        assert facts(process.pid).exe == "/mnt/tool"
        assert facts(process.pid).cwd == "/mnt/here"


def test_executable_and_directory_are_below_a_changed_root(tmp_path: Path) -> None:
    with living(
        through=("unshare", "--mount", "sh", "-c", f'mount --rbind / {tmp_path} && exec chroot {tmp_path} "$@"', "sh")
    ) as process:
        assert os.readlink(f"/proc/{process.pid}/exe") == f"{tmp_path}{PYTHON}"  # noqa: PTH115 - what is asked for
        assert facts(process.pid).exe == PYTHON
        assert facts(process.pid).cwd == "/"


def test_executable_outside_of_a_root_that_was_changed_later_keeps_its_path(tmp_path: Path) -> None:
    with living() as process:
        process.do(f"import os; os.chroot({str(tmp_path)!r})")

        assert facts(process.pid).exe == PYTHON


def test_nothing_is_raised_for_a_process_that_is_gone() -> None:
    with living() as process:
        gone = facts(process.pid)

    assert {type(getattr(gone, name)) for name in FACTS} == {Unreadable}
    assert isinstance(gone.variable("PATH"), Unreadable)


def test_what_may_not_be_read_is_said_to_be_so() -> None:
    with living(environ={"APP": "shop"}) as process:

        def look() -> dict[str, str]:
            found = facts(process.pid)
            named = {name: str(getattr(found, name)) for name in ("exe", "cwd", "libraries", "ports", "uid", "argv0")}
            return {**named, "APP": str(found.variable("APP"))}

        found = as_nobody(look)

    assert {found.pop(name) for name in ("exe", "cwd", "ports", "APP")} == {"cannot be read: permission denied"}
    assert "ermission denied" in found.pop("libraries")
    assert found == {"uid": "0", "argv0": PYTHON}


def test_each_fact_is_read_once() -> None:
    reads: list[str] = []

    class Counted(Facts):
        def _read(self, name: str, most: int) -> bytes:
            reads.append(name)
            return super()._read(name, most)

    found = Counted(process_table()[os.getpid()], ListeningSockets())
    for _ in range(2):
        assert found.cmdline
        assert found.argv0
        assert found.user == user_name(os.geteuid())
        assert found.variable("PATH") == os.environ["PATH"]
        assert {found.cgroup, found.container_id, found.systemd_unit}

    assert sorted(reads) == ["cgroup", "cmdline", "environ", "status"]


def test_what_cannot_be_read_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with living() as process:
        gone = facts(process.pid)
    assert isinstance(gone.exe, Unreadable)

    monkeypatch.setattr(gone, "process", process_table()[os.getpid()])

    assert isinstance(gone.exe, Unreadable)


def test_kernel_thread_has_no_executable() -> None:
    kthreadd = next((each for each in process_table().values() if each.comm == "kthreadd"), None)
    if kthreadd is None:
        pytest.skip("no kernel threads are seen from a PID namespace")

    assert isinstance(facts(kthreadd.pid).exe, Unreadable)
    assert facts(kthreadd.pid).cmdline == ""
