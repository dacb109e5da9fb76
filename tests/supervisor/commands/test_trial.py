"""Children that try something end in time, however they are."""

import os
import signal
import time

import pytest

from ebpf_userspace_exporter.supervisor.commands.trial import _run_child, verify
from ebpf_userspace_exporter.worker.image import Function, Image
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from tests.forked import children_of_ours


def test_a_child_that_takes_too_long_is_killed_and_reaped() -> None:
    begun, others = time.monotonic(), children_of_ours()

    assert _run_child("exporter-build", signal.pause, keep=(), seconds=0.2) is None

    assert time.monotonic() - begun < 30
    assert children_of_ours() == others


def test_a_child_s_exit_code_is_returned() -> None:
    assert _run_child("exporter-build", lambda: os._exit(7), keep=(), seconds=60) == 7


@pytest.mark.bpf
def test_the_verifier_s_words_come_back_with_their_reason() -> None:
    returns_nothing = Function("nothing", b"\x95" + bytes(7))

    with pytest.raises(AttachError) as caught:
        verify(Image((returns_nothing,), (), (), ()))

    assert caught.value.reason is Reason.VERIFIER
    assert "R0 !read_ok" in caught.value.diagnostics
