"""Workers that come, answer, fail and die in every order that the kernel allows."""

import dataclasses
import errno
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor.entry import Phase
from ebpf_userspace_exporter.supervisor.processes import read_process
from ebpf_userspace_exporter.supervisor.reconcile import (
    Action,
    Adopt,
    Clear,
    Drop,
    Finish,
    Kill,
    Ping,
    Relink,
    Start,
    Swap,
)
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target
from ebpf_userspace_exporter.worker.messages import Failed, Linked, MapsMade, send
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import TargetGone
from tests.supervisor.workers_scene import PROGRAM, Caller, Scene, caller, pid_of, target_of

pytestmark = pytest.mark.bpf


@pytest.fixture
def target() -> Iterator[Caller]:
    with caller() as started:
        yield started


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    before = descriptors()
    made = Scene(tmp_path)
    yield made
    made.close()
    assert descriptors() == before


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = str(Path(f"/proc/self/fd/{name}").readlink())
        except FileNotFoundError:
            continue  # the listing itself
    return {
        name: place for name, place in found.items() if place.startswith(("anon_inode", "socket", "pipe", "/memfd"))
    }


def executed(target: Target) -> Target:
    """Return the target as it is after an exec."""
    return dataclasses.replace(target, exec_mark=ExecMark(1, 2, 3, 4))


def wait_readable(channel: socket.socket) -> None:
    assert select.select([channel], [], [], 30)[0]


def wait_zombie(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def missed(scene: Scene) -> float:
    return float(scene.metrics.targets_missed.labels("calls")._value.get())


# A target's life


def test_events_are_counted_from_the_moment_of_running_to_the_last_read(scene: Scene, target: Caller) -> None:
    entry = scene.running(target_of(target.pid))
    target.call(5)
    target.end()
    scene.until(lambda: entry.exited)
    scene.do(Finish(entry.slot))
    scene.until(lambda: entry.phase is Phase.EXITED)

    assert scene.value(entry.slot) == 5
    scene.do(Drop(entry.slot, keep_files=False))
    assert scene.files() == []


def test_successor_counts_on_what_no_worker_saw(scene: Scene, target: Caller) -> None:
    entry = scene.running(target_of(target.pid))
    links = list(entry.holdings.links)
    os.kill(pid_of(entry), signal.SIGKILL)
    scene.until(lambda: entry.worker is None)
    target.call(7)
    scene.do(Start(entry.slot))
    scene.until(lambda: entry.phase is Phase.RUNNING)

    assert scene.value(entry.slot) == 7
    assert entry.holdings.links == links


def test_relinked_target_has_one_new_link_and_its_old_count(scene: Scene, target: Caller) -> None:
    seen = target_of(target.pid)
    entry = scene.running(seen)
    target.call(3)
    scene.do(Relink(executed(seen)))
    assert entry.holdings.links == []
    scene.until(lambda: entry.worker is None)
    scene.do(Start(entry.slot))
    scene.until(lambda: entry.phase is Phase.RUNNING)
    target.call(4)
    target.end()
    scene.do(Finish(entry.slot))
    scene.until(lambda: entry.phase is Phase.EXITED)

    assert scene.value(entry.slot) == 7


def test_process_that_exits_while_it_is_relinked_has_its_last_values_read(scene: Scene, target: Caller) -> None:
    seen = target_of(target.pid)
    entry = scene.running(seen)
    target.call(11)
    scene.do(Relink(executed(seen)))
    target.end()
    scene.do(Finish(entry.slot))
    scene.until(lambda: entry.phase is Phase.EXITED)

    assert scene.value(entry.slot) == 11


def test_hung_worker_is_replaced_and_counted(scene: Scene, target: Caller) -> None:
    entry = scene.running(target_of(target.pid))
    os.kill(pid_of(entry), signal.SIGSTOP)
    scene.do(Kill(entry.slot, Reason.WORKER_TIMEOUT))
    scene.until(lambda: entry.worker is None)

    assert entry.phase is Phase.WAITING
    assert scene.metrics.worker_restarts.labels("calls", Reason.WORKER_TIMEOUT)._value.get() == 1


def test_zombie_is_not_taken_up(scene: Scene, target: Caller) -> None:
    seen = target_of(target.pid)
    target.end()
    scene.do(Adopt(seen))

    assert scene.workers.entries == {}
    assert missed(scene) == 1


def test_reused_pid_is_not_taken_up(scene: Scene, target: Caller) -> None:
    scene.do(Adopt(dataclasses.replace(target_of(target.pid), start_ticks=1)))

    assert scene.workers.entries == {}
    assert missed(scene) == 1


def test_target_that_leaves_while_its_image_is_looked_for_is_tried_later(scene: Scene, target: Caller) -> None:
    entry = scene.adopt(target_of(target.pid))
    scene.builds.error = TargetGone(target.pid)
    scene.do(Start(entry.slot))

    assert entry.phase is Phase.WAITING
    assert entry.reason is Reason.TARGET_CHANGED
    assert entry.retry_at > time.monotonic()


# Deaths at inconvenient moments


def test_worker_that_dies_after_its_last_answer_is_done(scene: Scene, target: Caller) -> None:
    entry = scene.running(target_of(target.pid))
    target.call(2)
    worker = entry.worker
    assert worker is not None
    assert worker.channel is not None
    scene.do(Finish(entry.slot))
    wait_readable(worker.channel)
    os.kill(worker.pid, signal.SIGKILL)
    scene.reap(worker.pid)

    assert entry.phase is Phase.EXITED
    assert scene.value(entry.slot) == 2
    scene.until(lambda: scene.workers.is_empty)
    scene.workers.kill_late(time.monotonic() + 3600)


def test_dead_worker_is_not_relied_on_to_close_links_last(scene: Scene, target: Caller) -> None:
    """Nobody has told yet that it died; its copies of the links are closed already."""
    entry = scene.running(target_of(target.pid))
    worker = pid_of(entry)
    os.kill(worker, signal.SIGKILL)
    wait_zombie(worker)
    scene.do(Drop(entry.slot, keep_files=False))

    assert len(scene.workers._detacher.departures.pids) == 2


def test_dead_worker_and_a_closer_both_go_before_new_links_are_made(scene: Scene, target: Caller) -> None:
    seen = target_of(target.pid)
    entry = scene.running(seen)
    worker = pid_of(entry)
    os.kill(worker, signal.SIGKILL)
    wait_zombie(worker)
    scene.do(Relink(executed(seen)))

    assert pid_of(entry) != worker
    scene.until(lambda: entry.worker is None)
    assert entry.phase is Phase.WAITING


def test_links_of_a_replaced_worker_are_not_taken_for_the_new_ones(scene: Scene, target: Caller) -> None:
    """It had sent them before it was killed: they are linked to what the process executed then."""
    seen = target_of(target.pid)
    entry, theirs = scene.starting(seen)
    reading, writing = os.pipe()
    with theirs:
        scene.do(Relink(executed(seen)))
        send(theirs, Linked(more=False), [reading, writing])
        os.close(reading)
        os.close(writing)
        scene.until(lambda: entry.worker is None)

    assert entry.holdings.links == []
    assert entry.holdings.partial_links == []
    assert entry.attached_at is None
    assert entry.phase is Phase.WAITING


def test_failure_of_a_replaced_worker_is_not_the_new_programs(scene: Scene, target: Caller) -> None:
    seen = target_of(target.pid)
    entry, theirs = scene.starting(seen)
    with theirs:
        scene.do(Relink(executed(seen)))
        send(theirs, Failed(Reason.VERIFIER, "no"))
        scene.until(lambda: entry.worker is None)

    assert entry.phase is Phase.WAITING
    assert entry.retry_at <= time.monotonic()


def test_worker_that_dies_between_two_parts_of_its_links_keeps_none(scene: Scene, target: Caller) -> None:
    entry, theirs = scene.starting(target_of(target.pid))
    reading, writing = os.pipe()
    with theirs:
        send(theirs, MapsMade(), [reading])
        send(theirs, Linked(more=True), [writing])
        os.close(writing)
        os.close(reading)
    os.kill(pid_of(entry), signal.SIGKILL)
    retry_at = time.monotonic()
    scene.until(lambda: entry.phase is Phase.WAITING and entry.worker is None)

    assert entry.holdings.partial_links == []
    assert len(entry.holdings.maps) == 1
    assert entry.retry_at > retry_at + 0.5  # whoever closes them does not cut its time to try again


def test_noise_from_a_dead_worker_is_a_failure_and_kills_nobody(scene: Scene, target: Caller) -> None:
    """Its number may be somebody else's by then."""
    entry, theirs = scene.starting(target_of(target.pid))
    with theirs:
        theirs.send(b"noise")
        os.kill(pid_of(entry), signal.SIGKILL)
        scene.reap(pid_of(entry))

    assert entry.phase is Phase.WAITING
    assert entry.worker is None
    assert entry.reason is Reason.WORKER_DIED


def test_noise_from_a_live_worker_ends_it(scene: Scene, target: Caller) -> None:
    entry, theirs = scene.starting(target_of(target.pid))
    with theirs:
        theirs.send(b"noise")
        scene.until(lambda: entry.worker is None)

    assert entry.phase is Phase.WAITING


def test_worker_that_hangs_up_and_stays_is_ended(scene: Scene, target: Caller) -> None:
    entry, theirs = scene.starting(target_of(target.pid))
    theirs.close()
    scene.until(lambda: entry.worker is None)

    assert entry.phase is Phase.WAITING
    assert entry.reason is Reason.WORKER_DIED


def test_ping_that_cannot_be_sent_is_not_due_again_at_once(scene: Scene, target: Caller) -> None:
    entry = scene.running(target_of(target.pid))
    os.kill(pid_of(entry), signal.SIGKILL)
    wait_zombie(pid_of(entry))
    entry.deadline = 0.0
    scene.do(Ping(entry.slot))

    assert entry.deadline > time.monotonic()


# A changed program


def redefined(target: Target) -> Target:
    return dataclasses.replace(target, definition="another digest")


def test_changed_program_takes_the_place_of_the_one_before(scene: Scene, target: Caller) -> None:
    seen = target_of(target.pid)
    before = scene.running(seen)
    scene.do(Swap(redefined(seen)))
    after = scene.workers.entries[seen.slot]

    assert after is not before
    assert before.holdings.links == []
    scene.do(Start(seen.slot))
    scene.until(lambda: after.phase is Phase.RUNNING)


@pytest.mark.parametrize(
    "error",
    [AttachError(Reason.COMPILE, "no"), BlockingIOError(errno.EAGAIN, "no child"), TargetGone(1)],
    ids=["does not compile", "no builder", "gone"],
)
def test_changed_program_that_cannot_be_had_leaves_the_one_before_at_work(
    scene: Scene, target: Caller, error: Exception
) -> None:
    seen = target_of(target.pid)
    entry = scene.running(seen)
    scene.builds.error = error
    scene.do(Swap(redefined(seen)))
    target.call(3)
    scene.do(Ping(entry.slot))
    scene.until(lambda: entry.worker is not None and entry.worker.asked_at is None)

    assert scene.workers.entries == {seen.slot: entry}
    assert scene.value(seen.slot) == 3


@pytest.mark.parametrize("care", [Start, Ping, Clear, lambda slot: Kill(slot, Reason.WORKER_TIMEOUT)])
def test_changed_program_that_cannot_take_up_its_target_needs_no_care(
    tmp_path: Path, target: Caller, care: Callable[[Slot], Action]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(400)]
    scene = Scene(tmp_path)
    try:
        seen = target_of(target.pid)
        scene.running(seen)
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 40, limits[1]))
        scene.do(Swap(redefined(seen)), care(seen.slot))

        assert not scene.workers.entries
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        scene.close()
        for descriptor in held:
            os.close(descriptor)


def test_changed_program_that_is_bound_to_its_process_is_built_once(scene: Scene, target: Caller) -> None:
    assert scene.builds.image is not None
    scene.builds.image = dataclasses.replace(scene.builds.image, process_bound=True)
    seen = target_of(target.pid)
    scene.running(seen)
    scene.do(Swap(redefined(seen)))

    assert scene.builds._answers == {redefined(seen): scene.builds.image}


# Files


def test_generations_of_one_slot_never_share_a_temporary_file(scene: Scene, target: Caller) -> None:
    """Nor after the slot was given up: the worker before is still leaving then."""
    seen = target_of(target.pid)
    first = scene.running(seen).generation
    scene.do(Drop(seen.slot, keep_files=True))

    assert scene.running(seen).generation != first


def test_what_a_dead_worker_had_not_published_is_removed(scene: Scene, target: Caller) -> None:
    entry = scene.running(target_of(target.pid))
    [published] = scene.files()
    (scene.state_dir.path / f"{published}.{entry.generation}.tmp").touch()
    os.kill(pid_of(entry), signal.SIGKILL)
    scene.until(lambda: entry.worker is None)

    assert scene.files() == [published]


def test_files_that_can_be_neither_published_nor_removed_cost_their_target_alone(scene: Scene, target: Caller) -> None:
    """As on a file system that has become read-only; here what should be a folder is none."""
    entry = scene.running(target_of(target.pid))
    [published] = scene.files()
    (scene.state_dir.path / published).unlink()
    folder = scene.state_dir.descriptor
    scene.state_dir.descriptor = os.open("/dev/null", os.O_RDONLY)
    try:
        assert scene.workers.ask(entry, 1, time.monotonic())
        scene.until(lambda: entry.worker is not None and entry.worker.answered == 1)
        scene.do(Drop(entry.slot, keep_files=False))
        scene.until(lambda: scene.workers.is_empty)
    finally:
        os.close(scene.state_dir.descriptor)
        scene.state_dir.descriptor = folder


# Want


def refuse_fork() -> int:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_target_is_let_go_where_no_child_can_be_forked_for_it(
    scene: Scene, target: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = scene.running(target_of(target.pid))
    os.kill(pid_of(entry), signal.SIGKILL)
    scene.until(lambda: entry.worker is None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse_fork)
        scene.do(Relink(executed(entry.target)))
        scene.do(Drop(entry.slot, keep_files=False))

    assert scene.workers.is_empty


def test_worker_that_cannot_be_forked_is_tried_later_and_leaves_no_descriptor(
    scene: Scene, target: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = scene.adopt(target_of(target.pid))
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse_fork)
        scene.do(Start(entry.slot))

    assert entry.phase is Phase.WAITING
    assert entry.reason is Reason.MEMORY
    assert descriptors() == before


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Allow four more descriptors than there are, which is less than what is to stay free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 4, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_target_is_refused_while_there_are_descriptors_for_everything_else(
    scene: Scene, target: Caller, few_descriptors: None
) -> None:
    """With the last one gone, neither /proc could be read nor a client be answered."""
    seen = target_of(target.pid)
    scene.do(Adopt(seen))

    assert scene.workers.entries == {}
    assert scene.metrics.attach_failures.labels("calls", Reason.DESCRIPTORS)._value.get() == 1
    assert read_process(target.pid) is not None


def test_worker_whose_maps_would_take_the_last_descriptors_is_ended(
    scene: Scene, target: Caller, request: pytest.FixtureRequest
) -> None:
    entry, theirs = scene.starting(target_of(target.pid))
    request.getfixturevalue("few_descriptors")
    reading, writing = os.pipe()
    with theirs:
        send(theirs, MapsMade(), [reading, writing])
        os.close(reading)
        os.close(writing)
        scene.until(lambda: entry.worker is None)

    assert entry.holdings.maps == []
    assert entry.reason is Reason.DESCRIPTORS


# Failures


def test_failure_for_good_ends_the_trying_and_one_that_may_pass_does_not(scene: Scene, target: Caller) -> None:
    entry = scene.adopt(target_of(target.pid))
    scene.builds.error = AttachError(Reason.HEADERS, "not there yet")
    scene.do(Start(entry.slot))
    first = entry.retry_at - time.monotonic()
    scene.do(Start(entry.slot))
    second = entry.retry_at - time.monotonic()

    assert entry.state == "retrying"
    assert 0.5 < first < 1.1 < second < 2.1
    scene.builds.error = AttachError(Reason.COMPILE, "no")
    scene.do(Start(entry.slot))
    assert entry.state == "failed"


def test_target_that_lacks_a_probe_is_searched_again_when_it_has_mapped_something_else(
    scene: Scene, target: Caller
) -> None:
    entry = scene.adopt(target_of(target.pid))
    scene.builds.error = AttachError(Reason.PROBE_NOT_FOUND, "not there yet")
    scene.do(Start(entry.slot))
    assert (entry.state, entry.attempts) == ("waiting", 1)
    assert entry.retry_at > time.monotonic()

    scene.builds.error = None
    scene.do(Start(entry.slot))
    assert (entry.worker, entry.attempts) == (None, 1), "what it has mapped is the same"

    entry.mapped_code = frozenset()
    scene.do(Start(entry.slot))
    scene.until(lambda: entry.phase is Phase.RUNNING)


def test_targets_of_an_image_that_nobody_has_loaded_wait_for_the_first(scene: Scene, target: Caller) -> None:
    with caller() as another, caller() as third:
        first, *others = (scene.adopt(target_of(each.pid)) for each in (target, another, third))
        scene.do(*(Start(entry.slot) for entry in (first, *others)))
        assert [entry.worker is None for entry in (first, *others)] == [False, True, True]

        scene.until(lambda: first.phase is Phase.RUNNING)
        assert all(entry.retry_at <= time.monotonic() for entry in others)
        scene.do(*(Start(entry.slot) for entry in others))
        scene.until(lambda: all(entry.phase is Phase.RUNNING for entry in others))


def test_what_a_worker_that_failed_was_offered_is_offered_to_others(scene: Scene, target: Caller) -> None:
    with caller() as another:
        first, second = (scene.adopt(target_of(each.pid)) for each in (target, another))
        scene.workers._series.allowance(first)
        scene.workers._endings.fail(first, AttachError(Reason.PROBE_DISABLED, "not fired"), time.monotonic())
        assert scene.workers._series.allowance(second) == PROGRAM.max_series


def test_another_target_loads_the_image_when_the_first_is_gone(scene: Scene, target: Caller) -> None:
    with caller() as another:
        first, second = (scene.adopt(target_of(each.pid)) for each in (target, another))
        scene.do(Start(first.slot), Start(second.slot))
        assert second.worker is None

        scene.do(Drop(first.slot, keep_files=False))
        assert second.retry_at <= time.monotonic()
        scene.do(Start(second.slot))
        scene.until(lambda: second.phase is Phase.RUNNING)


def test_target_that_waits_for_its_image_asks_again_after_a_build(scene: Scene, target: Caller) -> None:
    entry = scene.adopt(target_of(target.pid))
    image, scene.builds.image = scene.builds.image, None
    scene.do(Start(entry.slot))
    assert entry.state == "building"
    scene.builds.image = image
    scene.workers.on_build(time.monotonic())
    assert entry.retry_at <= time.monotonic()
    scene.do(Start(entry.slot))
    scene.until(lambda: entry.phase is Phase.RUNNING)

    assert entry.state == "running"
