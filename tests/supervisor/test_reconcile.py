"""Deciding, without forking: entries are made by hand, time is an argument."""

import socket
from math import inf

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.entry import HANG_SECONDS, UNSERVED_SECONDS, Entry, Phase, Worker
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
    next_deadline,
    reconcile,
)
from ebpf_userspace_exporter.supervisor.targets import ExecMark, Slot, Target
from ebpf_userspace_exporter.worker.reasons import Reason

NOW = 1000.0
SLOT = Slot("malloc", 42)
PROGRAM = Program(name="malloc", attachment=Selector(binary_name=("x",)), code="")


def target(
    *, start_ticks: int = 100, definition: str = "d1", exe: int = 1, stack: int = 1, pid: int = 42, role: str = "web"
) -> Target:
    mark = ExecMark(stack, 2, 3, exe)
    return Target(Slot("malloc", pid), definition, start_ticks, mark, (("role", role),))


def entry(
    of: Target | None = None, phase: Phase = Phase.RUNNING, *, worker: bool = True, deadline: float = inf
) -> Entry:
    made = Entry(of or target(), PROGRAM, pidfd=-1, discovered=0.0, phase=phase, deadline=deadline)
    if worker:
        made.worker = Worker(pid=4242, channel=None, started=0.0)
    return made


def decide(have: Entry | None, want: Target | None, *, digest: str | None = "d1") -> list[Action]:
    defined = {} if digest is None else {"malloc": digest}
    return reconcile({} if want is None else {want.slot: want}, {} if have is None else {have.slot: have}, defined, NOW)


def test_new_target_is_adopted() -> None:
    assert decide(None, target()) == [Adopt(target())]


def test_adopted_target_is_started() -> None:
    assert decide(entry(phase=Phase.WAITING, worker=False), target()) == [Start(SLOT)]


def test_running_target_needs_nothing() -> None:
    assert decide(entry(), target()) == []


def test_target_that_waits_for_an_image_is_left_alone() -> None:
    waiting = entry(phase=Phase.WAITING, worker=False)
    waiting.retry_at = inf

    assert decide(waiting, target()) == []


def test_target_that_failed_for_good_is_left_alone() -> None:
    assert decide(entry(phase=Phase.FAILED, worker=False), target()) == []


def test_target_that_failed_for_good_is_tried_again_when_it_executes_something_else() -> None:
    assert decide(entry(phase=Phase.FAILED, worker=False), target(exe=2)) == [Relink(target(exe=2))]


def test_exited_target_is_read_for_the_last_time() -> None:
    exited = entry()
    exited.exited = True

    assert decide(exited, target()) == [Finish(SLOT)]


def test_target_that_no_longer_matches_is_read_for_the_last_time() -> None:
    assert decide(entry(), None) == [Finish(SLOT)]


def test_reused_pid_finishes_the_old_target_before_the_new_one_is_adopted() -> None:
    after = target(start_ticks=250)

    assert decide(entry(), after) == [Finish(SLOT)]
    assert decide(entry(phase=Phase.EXITED, worker=False), after) == [Drop(SLOT, keep_files=True), Adopt(after)]


def attached() -> Entry:
    made = entry()
    made.holdings.links = [3]
    return made


def test_exec_of_the_same_file_replaces_the_links() -> None:
    assert decide(attached(), target(stack=2)) == [Relink(target(stack=2))]


@pytest.mark.parametrize("after", [target(stack=2, exe=2), target(stack=2, role="batch")], ids=["file", "labels"])
def test_exec_of_another_file_or_under_other_labels_is_read_for_the_last_time_before_it_is_adopted(
    after: Target,
) -> None:
    assert decide(attached(), after) == [Finish(SLOT)]
    assert decide(entry(phase=Phase.EXITED, worker=False), after) == [Drop(SLOT, keep_files=True), Adopt(after)]


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.STARTING, Phase.FAILED])
def test_what_a_predecessor_left_is_shown_until_its_grace_is_over(phase: Phase) -> None:
    have = entry(phase=phase, worker=phase is Phase.STARTING)
    have.retry_at, have.predecessor_until = inf, NOW + 1

    assert decide(have, target()) == []
    assert next_deadline(have, NOW) == NOW + 1
    have.predecessor_until = NOW
    assert decide(have, target()) == [Clear(SLOT)]


@pytest.mark.parametrize("after", [target(stack=2, exe=2), target(stack=2, role="new")])
def test_exec_before_the_links_of_the_one_before_are_made_anew_is_read_for_the_last_time_too(after: Target) -> None:
    relinking = entry(phase=Phase.WAITING, worker=False)
    relinking.continues_files = True

    assert decide(relinking, after) == [Finish(SLOT)]


def test_exec_of_what_has_counted_nothing_yet_needs_no_last_read() -> None:
    assert decide(entry(phase=Phase.STARTING), target(stack=2, exe=2)) == [Relink(target(stack=2, exe=2))]


def test_exec_under_a_refused_definition_keeps_the_labels_of_the_one_in_force() -> None:
    have = attached()
    have.refused = "d2"

    assert decide(have, target(stack=2, definition="d2", role="new"), digest="d2") == [Relink(target(stack=2))]


def test_changed_definition_ends_the_old_series_when_the_new_ones_begin() -> None:
    after = target(definition="d2")

    assert decide(entry(), after, digest="d2") == [Drop(SLOT, keep_files=True), Adopt(after)]


def test_changed_definition_that_matches_nobody_ends_the_series_at_once() -> None:
    assert decide(entry(), None, digest="d2") == [Drop(SLOT, keep_files=False)]


def test_target_of_a_former_definition_is_not_taken_up_again() -> None:
    """A process whose leader has exited is wanted as it is; dropped and adopted by turns it kept the loop busy."""
    assert decide(entry(), target(), digest="d2") == [Drop(SLOT, keep_files=False)]
    assert decide(None, target(), digest="d2") == []
    assert decide(None, target(), digest=None) == []


def test_program_removed_from_the_config_goes_at_once() -> None:
    assert decide(entry(), None, digest=None) == [Drop(SLOT, keep_files=False)]


@pytest.mark.parametrize(
    ("late", "served", "expected"),
    [
        pytest.param(0.0, True, [Drop(SLOT, keep_files=False)], id="served and over"),
        pytest.param(0.0, False, [], id="over but not served"),
        pytest.param(UNSERVED_SECONDS, False, [Drop(SLOT, keep_files=False)], id="nobody scrapes"),
        pytest.param(-1.0, True, [], id="still in its grace"),
    ],
)
def test_series_of_an_exited_target_stay_for_the_grace(late: float, served: bool, expected: list[Action]) -> None:
    exited = entry(phase=Phase.EXITED, worker=False, deadline=NOW - late)
    exited.served = served

    assert decide(exited, None) == expected


def test_worker_that_does_not_answer_is_killed() -> None:
    hung = entry()
    assert hung.worker is not None
    hung.worker.asked_at = NOW - HANG_SECONDS

    assert decide(hung, target()) == [Kill(SLOT, Reason.WORKER_TIMEOUT)]


def test_worker_that_is_not_ready_in_time_is_killed() -> None:
    assert decide(entry(phase=Phase.STARTING, deadline=NOW), target()) == [Kill(SLOT, Reason.WORKER_TIMEOUT)]


def test_last_read_that_takes_too_long_is_killed() -> None:
    assert decide(entry(phase=Phase.FINISHING, deadline=NOW), None) == [Kill(SLOT, Reason.WORKER_TIMEOUT)]


def test_worker_that_nobody_asks_is_pinged() -> None:
    assert decide(entry(deadline=NOW), target()) == [Ping(SLOT)]


def test_what_ends_comes_before_what_begins() -> None:
    new = target(pid=43)
    actions = reconcile({new.slot: new}, {SLOT: entry()}, {"malloc": "d1"}, NOW)

    assert actions == [Finish(SLOT), Adopt(new)]


@pytest.mark.parametrize("phase", Phase, ids=str)
@pytest.mark.parametrize("worker", [True, False], ids=["worker", "no worker"])
@pytest.mark.parametrize(
    "want", [target(), target(exe=2), target(start_ticks=9), None], ids=["same", "exec", "reuse", "none"]
)
def test_every_action_changes_what_called_for_it_or_has_a_later_deadline(
    phase: Phase, worker: bool, want: Target | None
) -> None:
    """An entry whose deadline is past and that is left alone would make the loop spin."""
    with socket.socket() as channel:
        subject = entry(phase=phase, worker=worker, deadline=NOW + 5)
        subject.retry_at = NOW + 5
        if subject.worker is not None:
            subject.worker.channel = channel
        if not decide(subject, want):
            assert next_deadline(subject, NOW) > NOW


def test_changed_program_takes_the_place_of_one_that_counts_when_it_is_built() -> None:
    counting = entry()
    counting.holdings.links = [7]

    assert decide(counting, target(definition="d2"), digest="d2") == [Swap(target(definition="d2"))]


def test_last_read_is_waited_for_though_the_program_has_changed() -> None:
    reading = entry(phase=Phase.FINISHING, deadline=NOW + 1)

    assert decide(reading, target(definition="d2"), digest="d2") == []
    assert decide(reading, None, digest=None) == [Drop(SLOT, keep_files=False)]


def test_program_that_waits_to_be_swapped_is_cared_for_as_before() -> None:
    hung = entry()
    hung.holdings.links = [7]
    assert hung.worker is not None
    hung.worker.asked_at = NOW - HANG_SECONDS

    after = target(definition="d2")
    assert decide(hung, after, digest="d2") == [Swap(after), Kill(SLOT, Reason.WORKER_TIMEOUT)]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param(target(definition="d2"), [], id="runs"),
        pytest.param(target(definition="d2", exe=2), [Relink(target(exe=2))], id="exec"),
        pytest.param(target(definition="d2", start_ticks=250), [Finish(SLOT)], id="reused pid"),
        pytest.param(None, [Finish(SLOT)], id="gone"),
    ],
)
def test_program_whose_changed_form_was_refused_goes_on_by_its_own(
    after: Target | None, expected: list[Action]
) -> None:
    counting = entry()
    counting.holdings.links = [7]
    counting.refused = "d2"

    assert decide(counting, after, digest="d2") == expected


@pytest.mark.parametrize(
    "after", [target(definition="d2", exe=2), target(definition="d2", start_ticks=250)], ids=["exec", "reused pid"]
)
def test_changed_program_on_another_executable_or_process_is_not_waited_for(after: Target) -> None:
    counting = entry()
    counting.holdings.links = [7]

    assert decide(counting, after, digest="d2") == [Drop(SLOT, keep_files=True), Adopt(after)]
