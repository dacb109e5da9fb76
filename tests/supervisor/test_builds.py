"""Builders are forked for real; what runs in them is a fake that ends as told, unless a test says otherwise."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from structlog.testing import capture_logs

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.builds import BUILD_SECONDS, MAX_IMAGES, Builds
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target
from ebpf_userspace_exporter.worker.build.process import (
    _END,
    _IMAGE_BEGIN,
    BuildRequest,
    _encode_failure,
    _Failure,
    _write,
)
from ebpf_userspace_exporter.worker.image import FileIdentity, Function, Image, ProbedFile, encode_image
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

NOW = 1000.0


def act(request: BuildRequest, result_fd: int, diagnostics_fd: int) -> NoReturn:
    """In the builder: do what the program's code says."""
    match request.program.code.split():
        case ["image", *bound]:
            _write(diagnostics_fd, b"code:3:5: warning: x is not used\n")
            executable = ProbedFile(None, identity(request.pid))
            built = Image((Function("f", bytes(8)),), (), (executable,), (), process_bound=bool(bound))
            _write(result_fd, _IMAGE_BEGIN + encode_image(built) + _END)
        case ["fail", reason]:
            _write(diagnostics_fd, b"clang says no")
            _write(result_fd, _encode_failure(_Failure(Reason(reason), "it failed")))
        case ["gone"]:
            _write(result_fd, _encode_failure(_Failure(None, "", request.pid)))
        case ["hang"]:
            signal.pause()
    os._exit(0)


def identity(pid: int) -> FileIdentity:
    status = Path(f"/proc/{pid}/exe").stat()
    return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def program(code: str) -> Program:
    return Program(name=code, attachment=Selector(binary_name=("x",)), code=code)


def target(code: str, pid: int) -> Target:
    return Target(Slot(code, pid), program(code).digest(), 1, ExecMark(1, 2, 3, 4))


@pytest.fixture
def pids() -> Iterator[list[int]]:
    """Two processes that execute the same file, and one that executes another."""
    python = [sys.executable, "-I", "-c", "input()"]
    with (
        subprocess.Popen(python, stdin=subprocess.PIPE) as first,
        subprocess.Popen(python, stdin=subprocess.PIPE) as second,
        subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as other,
    ):
        started = [first, second, other]
        executes = [os.path.realpath(sys.executable)] * 2 + [os.path.realpath("/bin/cat")]
        deadline = time.monotonic() + 30
        while [os.path.realpath(f"/proc/{each.pid}/exe") for each in started] != executes:
            assert time.monotonic() < deadline
        yield [each.pid for each in started]
        for each in started:
            each.kill()


@pytest.fixture
def builds(tmp_path: Path) -> Iterator[Builds]:
    before = set(os.listdir("/proc/self/fd"))
    made = Builds(tmp_path, None, act)
    yield made
    made.kill_all()
    wait_for_builders(made)
    assert set(os.listdir("/proc/self/fd")) == before


def running(builds: Builds) -> list[int]:
    return list(builds._running)


def wait_for_builders(builds: Builds, now: float = NOW) -> None:
    """Wait until every builder has exited, and take what they have left."""
    for pid in running(builds):
        _, status = os.waitpid(pid, 0)
        assert builds.on_exit(pid, os.waitstatus_to_exitcode(status), now)


def ask(builds: Builds, code: str, pid: int, now: float = NOW) -> Image | None:
    return builds.image_for(target(code, pid), program(code), frozenset(), now)


def refused(builds: Builds, code: str, pid: int, now: float = NOW) -> AttachError:
    with pytest.raises(AttachError) as raised:
        ask(builds, code, pid, now)
    return raised.value


# One image for many


def test_what_the_builder_warned_of_is_logged_once(builds: Builds, pids: list[int]) -> None:
    with capture_logs() as lines:
        ask(builds, "image", pids[0])
        wait_for_builders(builds)
        for pid in pids[:2]:
            assert ask(builds, "image", pid)

    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert warnings == [
        {
            "event": "built with a warning",
            "log_level": "warning",
            "program": "image",
            "warning": "code:3:5: warning: x is not used",
        }
    ]


def test_one_build_serves_every_process_of_a_binary(builds: Builds, pids: list[int]) -> None:
    assert ask(builds, "image", pids[0]) is None
    assert ask(builds, "image", pids[1]) is None
    assert len(running(builds)) == 1
    wait_for_builders(builds)

    assert builds.is_empty
    built = ask(builds, "image", pids[0])
    assert built is not None
    assert ask(builds, "image", pids[1]) is built


def test_another_binary_has_a_build_of_its_own(builds: Builds, pids: list[int]) -> None:
    ask(builds, "image", pids[0])
    ask(builds, "image", pids[2])
    assert len(running(builds)) == 2
    wait_for_builders(builds)

    assert ask(builds, "image", pids[0]) != ask(builds, "image", pids[2])


def test_so_many_are_built_at_one_time_and_the_next_when_one_is_through(builds: Builds, pids: list[int]) -> None:
    for code in ("image", "image bound", "hang"):
        ask(builds, code, pids[0])
    assert len(running(builds)) == 2
    wait_for_builders(builds)
    ask(builds, "hang", pids[0])

    assert len(running(builds)) == 1


def test_image_of_one_process_is_for_its_own_target_and_given_once(builds: Builds, pids: list[int]) -> None:
    ask(builds, "image bound", pids[0])
    wait_for_builders(builds)

    assert ask(builds, "image bound", pids[1]) is None  # is built for it alone
    built = ask(builds, "image bound", pids[0])
    assert built is not None
    assert built.process_bound


def test_image_of_one_process_that_is_given_back_is_given_out_again(builds: Builds, pids: list[int]) -> None:
    ask(builds, "image bound", pids[0])
    wait_for_builders(builds)
    built = ask(builds, "image bound", pids[0])
    assert built is not None
    builds.give_back(target("image bound", pids[0]), built)

    assert ask(builds, "image bound", pids[0]) is built


def test_image_of_one_process_is_not_kept_for_a_target_that_was_given_up(builds: Builds, pids: list[int]) -> None:
    ask(builds, "image bound", pids[0])
    builds.forget(target("image bound", pids[0]))
    wait_for_builders(builds)

    assert builds._answers == {}


def test_answer_is_forgotten_with_its_target(builds: Builds, pids: list[int]) -> None:
    ask(builds, "image bound", pids[0])
    wait_for_builders(builds)
    builds.forget(target("image bound", pids[0]))

    assert builds._answers == {}


def test_images_that_fit_nobody_any_more_make_way(builds: Builds, pids: list[int]) -> None:
    """Each set of libraries under one executable has an image of its own; containers come with ever new ones."""
    ask(builds, "image", pids[0])
    wait_for_builders(builds)
    [known] = builds._known.values()
    misfit = Image((), (), (ProbedFile("/nowhere", identity(pids[0])),), ())
    known.images[:] = [misfit] * 3 * MAX_IMAGES
    assert ask(builds, "image", pids[0]) is None
    wait_for_builders(builds)

    assert len(known.images) == MAX_IMAGES
    assert ask(builds, "image", pids[0]) is not None


def test_reload_keeps_what_is_still_defined(builds: Builds, pids: list[int]) -> None:
    for code in ("image", "image bound"):
        ask(builds, code, pids[0])
        ask(builds, code, pids[1])
    wait_for_builders(builds)
    builds.retain([program("image").digest()])

    assert ask(builds, "image", pids[0]) is not None
    assert builds._answers == {}


# Failures


def test_failure_is_the_answer_for_every_process_of_the_binary(builds: Builds, pids: list[int]) -> None:
    ask(builds, "fail compile", pids[0])
    wait_for_builders(builds)

    for pid in (pids[0], pids[1]):
        error = refused(builds, "fail compile", pid, NOW + 1e9)
        assert (error.reason, error.message, error.diagnostics) == (Reason.COMPILE, "it failed", "clang says no")
    assert builds.is_empty
    assert ask(builds, "fail compile", pids[2]) is None  # another binary


def test_failure_that_may_pass_is_tried_again_after_a_while(builds: Builds, pids: list[int]) -> None:
    ask(builds, "fail headers", pids[0])
    wait_for_builders(builds)

    assert refused(builds, "fail headers", pids[1]).reason is Reason.HEADERS
    assert ask(builds, "fail headers", pids[1], NOW + 10) is None
    assert len(running(builds)) == 1


def test_missing_probe_is_missing_for_all_who_have_mapped_the_same(builds: Builds, pids: list[int]) -> None:
    code, few, more = "fail probe_not_found", frozenset({(1, 1)}), frozenset({(1, 1), (1, 2)})
    assert builds.image_for(target(code, pids[0]), program(code), few, NOW) is None
    wait_for_builders(builds)

    for pid in pids[:2]:
        with pytest.raises(AttachError) as raised:
            builds.image_for(target(code, pid), program(code), few, NOW + 1e9)
        assert raised.value.reason is Reason.PROBE_NOT_FOUND
    assert builds.is_empty
    assert builds.image_for(target(code, pids[1]), program(code), more, NOW) is None
    assert len(running(builds)) == 1


def test_failure_told_a_thousand_times_holds_no_memory(builds: Builds, pids: list[int]) -> None:
    """Raising one exception again and again makes its traceback longer each time, frames and all."""
    ask(builds, "fail compile", pids[0])
    wait_for_builders(builds)
    depths = []
    for _ in range(3):
        trace, depth = refused(builds, "fail compile", pids[0]).__traceback__, 0
        while trace is not None:
            trace, depth = trace.tb_next, depth + 1
        depths.append(depth)

    assert len(set(depths)) == 1
    [known] = builds._known.values()
    assert known.failure is not None
    assert known.failure.__traceback__ is None


def test_failure_that_a_worker_met_is_remembered_too(builds: Builds, pids: list[int]) -> None:
    builds.remember_failure(target("image", pids[0]), AttachError(Reason.VERIFIER, "no", "log"))

    assert refused(builds, "image", pids[1], NOW + 1e9).reason is Reason.VERIFIER
    assert builds.is_empty


def test_target_that_left_its_builder_is_told_alone(builds: Builds, pids: list[int]) -> None:
    ask(builds, "gone", pids[0])
    wait_for_builders(builds)

    assert ask(builds, "gone", pids[1]) is None
    assert refused(builds, "gone", pids[0]).reason is Reason.TARGET_CHANGED


@pytest.mark.parametrize("end", [lambda pid: os.kill(pid, signal.SIGKILL), lambda pid: os.kill(pid, signal.SIGTERM)])
def test_builder_that_was_killed_is_a_failure_that_may_pass(
    builds: Builds, pids: list[int], end: Callable[[int], None]
) -> None:
    ask(builds, "hang", pids[0])
    end(running(builds)[0])
    wait_for_builders(builds)

    assert refused(builds, "hang", pids[0]).reason is Reason.BUILDER_DIED
    assert ask(builds, "hang", pids[0], NOW + 10) is None


def test_builder_that_hangs_is_killed_and_says_so(builds: Builds, pids: list[int]) -> None:
    ask(builds, "hang", pids[0])
    assert builds.next_deadline() == NOW + BUILD_SECONDS
    builds.kill_late(NOW + BUILD_SECONDS - 1)
    assert builds.next_deadline() == NOW + BUILD_SECONDS
    builds.kill_late(NOW + BUILD_SECONDS)
    assert builds.next_deadline() == float("inf")
    wait_for_builders(builds)

    assert refused(builds, "hang", pids[0]).reason is Reason.BUILDER_TIMEOUT


def test_builder_that_says_nothing_is_a_failure(builds: Builds, pids: list[int]) -> None:
    ask(builds, "silence", pids[0])
    wait_for_builders(builds)

    assert refused(builds, "silence", pids[0]).reason is Reason.BUILDER_DIED


def test_process_that_is_gone_is_no_failure_of_the_program(builds: Builds, pids: list[int]) -> None:
    os.kill(pids[0], signal.SIGKILL)
    os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT)

    assert refused(builds, "image", pids[0]).reason is Reason.TARGET_CHANGED
    builds.remember_failure(target("image", pids[0]), AttachError(Reason.VERIFIER, "no"))
    assert builds._known == {}


def test_builder_that_cannot_be_forked_leaves_no_descriptor(
    builds: Builds, pids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        with pytest.raises(BlockingIOError):
            ask(builds, "image", pids[0])

    assert builds.is_empty
    assert set(os.listdir("/proc/self/fd")) == before


def test_other_children_are_none_of_ours(builds: Builds) -> None:
    child = children.spawn("other", lambda: None, keep=())
    _, status = os.waitpid(child, 0)

    assert not builds.on_exit(child, os.waitstatus_to_exitcode(status), NOW)
