"""A forked child of a probed process is freed of its inherited breakpoints, and its parent goes on being counted."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ebpf_userspace_exporter.worker.bpf.heal import heal
from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.image import Probe
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

if TYPE_CHECKING:
    from tests.worker.bpf.conftest import Binary, Counter, Target

pytestmark = pytest.mark.bpf


def originals(binary: "Binary") -> list[bytes]:
    """Return the first bytes of both probed instructions, as in the file."""
    content = Path(binary.path).read_bytes()
    return [content[offset : offset + 1] for offset in (binary.offsets["probed"], binary.usdt[0])]


@pytest.fixture
def counter(target: "Target", load_counter: Callable[[bool], "Counter"]) -> Iterator["Counter"]:
    """Programs linked to a function and to a USDT probe with a semaphore."""
    counter, (usdt, semaphore) = load_counter(True), target.binary.usdt
    probes = [
        Probe("f0", 0, target.binary.offsets["probed"], ref_ctr_offset=0, is_return=False),
        Probe("f1", 0, usdt, semaphore, is_return=False),
    ]
    links = attach(counter.programs, probes, [target.binary.path], target.pid, uprobe_multi=True)
    yield counter
    for link in links:
        os.close(link)


def test_inherited_breakpoints_go_and_the_parent_counts_on(
    target: "Target", counter: "Counter", open_descriptors: Callable[[], list[str]]
) -> None:
    place, (usdt, semaphore) = target.binary.offsets["probed"], target.binary.usdt
    child = target.fork()
    inherited = [target.memory_at(place, 1, child), target.memory_at(usdt, 1, child)]
    raised = target.memory_at(semaphore, 2, child)
    descriptors = open_descriptors()

    heal(child, [(target.binary.path, [place, usdt], [0, semaphore])])
    target.call(21)

    assert inherited == [target.memory_at(place, 1), target.memory_at(usdt, 1)]
    assert [target.memory_at(place, 1, child), target.memory_at(usdt, 1, child)] == originals(target.binary)
    assert raised == b"\1\0"
    assert target.memory_at(semaphore, 2, child) == b"\0\0"
    assert target.semaphore() == 1
    assert counter.counts()[:2] == [21, 21]
    assert open_descriptors() == descriptors


def test_a_process_that_is_gone_needs_no_healing(target: "Target", counter: "Counter") -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()

    heal(gone.pid, [(target.binary.path, [target.binary.offsets["probed"]], [0])])


def test_another_semaphore_than_attached_is_refused_and_other_files_are_healed(
    target: "Target", counter: "Counter"
) -> None:
    place, (usdt, _) = target.binary.offsets["probed"], target.binary.usdt
    child = target.fork()

    with pytest.raises(AttachError, match="attach heal to ") as caught:
        heal(child, [(target.binary.path, [usdt], [0]), (target.binary.path, [place], [0])])

    assert caught.value.reason is Reason.OTHER_TRACER
    assert target.memory_at(place, 1, child) == originals(target.binary)[0]
