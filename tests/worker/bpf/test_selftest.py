"""The self-tests say yes where attaching works, no with a reason where it does not, and leave nothing behind."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.bpf import selftest
from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.bpf.selftest import SelfTest, perf_uprobes_work, uprobe_multi_works
from ebpf_userspace_exporter.worker.image import Function

pytestmark = pytest.mark.bpf

BOTH_WAYS = pytest.mark.parametrize("way", [uprobe_multi_works, perf_uprobes_work], ids=["uprobe_multi", "perf"])


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@BOTH_WAYS
def test_what_works_passes_every_time(way: Callable[[], SelfTest]) -> None:
    assert [way() for _ in range(5)] == [SelfTest(works=True, detail="")] * 5


@BOTH_WAYS
def test_nothing_is_left_behind(way: Callable[[], SelfTest], open_descriptors: Callable[[], list[str]]) -> None:
    before = open_descriptors(), children()

    way()

    assert (open_descriptors(), children()) == before


@BOTH_WAYS
def test_a_refusal_of_the_kernel_is_a_no_with_its_words(
    way: Callable[[], SelfTest], monkeypatch: pytest.MonkeyPatch, open_descriptors: Callable[[], list[str]]
) -> None:
    before = open_descriptors(), children()
    monkeypatch.setattr(selftest, "_COUNT", Function("selftest", bytes.fromhex("9500000000000000")))

    found = way()

    assert not found.works
    assert "the verifier refuses: R0 !read_ok" in found.detail
    assert (open_descriptors(), children()) == before


@BOTH_WAYS
def test_calls_that_are_not_counted_are_a_no(
    way: Callable[[], SelfTest], monkeypatch: pytest.MonkeyPatch, open_descriptors: Callable[[], list[str]]
) -> None:
    """As with a kernel that takes the pid for one thread's: the program is there, and nothing comes."""
    before = open_descriptors(), children()
    monkeypatch.setattr(selftest, "_find_getppid", lambda: ("/usr/bin/true", 0))

    found = way()

    assert found == SelfTest(works=False, detail="counted 0 calls, expected the 5 of a second thread")
    assert (open_descriptors(), children()) == before


def test_calls_of_another_process_that_are_counted_are_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def attach_to_everybody(*arguments: object, **options: object) -> list[int]:
        return attach(*arguments[:3], 0, **options)  # type: ignore[arg-type, call-arg]  # handed on as they come

    monkeypatch.setattr(selftest, "attach", attach_to_everybody)

    found = uprobe_multi_works()

    assert not found.works
    assert "expected the 5 of a second thread" in found.detail


@BOTH_WAYS
def test_a_child_that_does_not_answer_is_a_no(
    way: Callable[[], SelfTest], monkeypatch: pytest.MonkeyPatch, open_descriptors: Callable[[], list[str]]
) -> None:
    before = open_descriptors(), children()
    monkeypatch.setattr(selftest, "_obey", lambda *_: None)

    found = way()

    assert found == SelfTest(works=False, detail="[Errno 110] the child that calls the probed function did not answer")
    assert (open_descriptors(), children()) == before
