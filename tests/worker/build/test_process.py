"""A builder leaves nothing behind, and what it leaves for the supervisor is read with suspicion."""

import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.build.process import MAX_DIAGNOSTICS_BYTES, MAX_RESULT_BYTES, read_result
from ebpf_userspace_exporter.worker.image import Image, encode_image
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import TargetGone

EMPTY = Image((), (), (), ())
Build = Callable[[Program, int], Image]


@pytest.mark.bpf
def test_semaphores_stay_0_during_a_build_and_when_the_builder_is_killed(
    start_build: Any, make_program: Any, target: Any
) -> None:
    program = make_program(usdt={"work": "on_work", "level": "on_level", "same": "on_same"})
    building = start_build(program, target.pid)
    with watched(building.pid) as alive:
        while not select.select([alive], [], [], 0)[0]:
            assert target.order("") == [0, 0, 0]
    assert len(building.finish().functions) == 3

    for seconds_of_bcc in (None, 0, 0.05, 0.2):
        building = start_build(program, target.pid)
        with watched(building.pid) as alive:
            while seconds_of_bcc is not None and b"libbcc" not in Path(f"/proc/{building.pid}/maps").read_bytes():
                assert not select.select([alive], [], [], 0.001)[0]
            select.select([alive], [], [], seconds_of_bcc or 0)
            os.kill(building.pid, signal.SIGKILL)
            with suppress(AttachError):  # or it was done by then
                building.finish()
        assert target.order("") == [0, 0, 0]


@contextmanager
def watched(pid: int) -> Iterator[int]:
    alive = os.pidfd_open(pid)
    try:
        yield alive
    finally:
        os.close(alive)


@pytest.mark.bpf
def test_a_builder_leaves_no_file_in_its_scratch_folder(
    build: Build, make_program: Any, target: Any, tmp_path: Path
) -> None:
    build(make_program(usdt={"work": "on_work"}), target.pid)

    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_gone_is_no_failure_of_the_program(build: Build, make_program: Any, target: Any) -> None:
    target.process.kill()
    target.process.wait(timeout=20)

    with pytest.raises(TargetGone) as caught:
        build(make_program(usdt={"work": "on_work"}), target.pid)

    assert caught.value.pid == target.pid


def test_an_image_comes_back_whole() -> None:
    assert read_result(b'{"image":' + encode_image(EMPTY) + b"}", b"a warning", 0) == EMPTY


@pytest.mark.parametrize(
    ("result", "diagnostics", "exit_code", "reason"),
    [
        (b"", b"", 0, Reason.BUILDER_DIED),
        (b"{}", b"", 0, Reason.BUILDER_DIED),
        (b'{"image":{}}', b"", 0, Reason.BUILDER_DIED),
        (b'{"image":' + encode_image(EMPTY), b"", 0, Reason.BUILDER_DIED),
        (b'{"image":' + b" " * MAX_RESULT_BYTES, b"", 0, Reason.BUILDER_DIED),
        (b'{"failure":' + b" " * MAX_RESULT_BYTES, b"", 0, Reason.BUILDER_DIED),
        (b'{"failure":{"reason":"nothing","message":""}}', b"", 0, Reason.BUILDER_DIED),
        (b'{"failure":{"reason":"key_size","message":"m"}}', b"", 0, Reason.KEY_SIZE),
        (b'{"failure":{"reason":"compile","message":"m"}}', b"Unable to find kernel headers.", 0, Reason.HEADERS),
        (b'{"image":' + encode_image(EMPTY) + b"}", b"", 1, Reason.COMPILE),
        (b"", b"Looks like the BPF stack limit of 512 bytes is exceeded.", 1, Reason.STACK_SIZE),
        (b"", b"LLVM ERROR: cannot", 1, Reason.COMPILE),
        (b"", b"Traceback\nValueError: bad", 70, Reason.BUILDER_DIED),
        (b"", b"", -signal.SIGKILL, Reason.BUILDER_DIED),
        (b"", b"", -signal.SIGXCPU, Reason.BUILDER_TIMEOUT),
    ],
)
def test_anything_but_an_image_is_a_reason(result: bytes, diagnostics: bytes, exit_code: int, reason: Reason) -> None:
    with pytest.raises(AttachError) as caught:
        read_result(result, diagnostics, exit_code)

    assert caught.value.reason is reason
    assert caught.value.diagnostics == diagnostics.decode()


def test_diagnostics_are_cut_and_need_not_be_text() -> None:
    failure = json.dumps({"failure": {"reason": "compile", "message": "m"}}, separators=(",", ":")).encode()

    with pytest.raises(AttachError) as caught:
        read_result(failure, b"\xff" * (1 << 20), 0)

    assert caught.value.diagnostics == "\ufffd" * MAX_DIAGNOSTICS_BYTES
