"""Decides what to do next: a pure function of what is wanted, what there is, and the time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from ebpf_userspace_exporter.supervisor.entry import HANG_SECONDS, UNSERVED_SECONDS, Entry, Phase
from ebpf_userspace_exporter.supervisor.targets import Slot, Target
from ebpf_userspace_exporter.worker.reasons import Reason


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take up a target; whatever was in its slot has ended."""

    target: Target


@dataclass(frozen=True, slots=True)
class Start:
    """Fork a worker, or ask for the image that it needs."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Relink:
    """The process has executed something: its links must go before new ones are made."""

    target: Target


@dataclass(frozen=True, slots=True)
class Swap:
    """The program has changed: once it is built for this process, let it take the place of the one that runs."""

    target: Target


@dataclass(frozen=True, slots=True)
class Finish:
    """The target is gone or no longer matches: read its maps for the last time."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker that does not do its work; its reason is counted."""

    slot: Slot
    reason: Reason


@dataclass(frozen=True, slots=True)
class Ping:
    """See whether a worker that nobody asks anything still answers."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Drop:
    """Let everything of the slot go; its files too, unless a new target is about to write over them."""

    slot: Slot
    keep_files: bool


@dataclass(frozen=True, slots=True)
class Clear:
    """Show no more what a predecessor has left in the slot: its grace is over."""

    slot: Slot


Action = Adopt | Start | Relink | Swap | Finish | Kill | Ping | Drop | Clear


def reconcile(
    desired: Mapping[Slot, Target], entries: Mapping[Slot, Entry], defined: Mapping[str, str], now: float
) -> list[Action]:
    """Return what would bring `entries` closer to `desired`; what ends comes first.

    `defined` maps each program of the config to its digest; `now` is in seconds of the monotonic clock. A target of a
    former definition is not wanted any more.
    """
    desired = {slot: target for slot, target in desired.items() if target.definition == defined.get(slot.program)}
    endings: list[Action] = []
    beginnings: list[Action] = []
    for slot, entry in entries.items():
        for action in _next(entry, desired.get(slot), defined.get(slot.program), now):
            (beginnings if isinstance(action, Adopt | Start) else endings).append(action)
    beginnings.extend(Adopt(target) for slot, target in desired.items() if slot not in entries)
    return [*endings, *beginnings]


def next_deadline(entry: Entry, now: float) -> float:
    """Return when, on the monotonic clock, the entry may need something though nothing happens to it."""
    deadline = _deadline_of_phase(entry, now)
    return deadline if entry.predecessor_until is None else min(deadline, entry.predecessor_until)


def _deadline_of_phase(entry: Entry, now: float) -> float:
    match entry.phase:
        case Phase.WAITING:
            return entry.retry_at if entry.worker is None else entry.deadline
        case Phase.RUNNING:
            worker = entry.worker
            return entry.deadline if worker is None or worker.asked_at is None else worker.asked_at + HANG_SECONDS
        case Phase.EXITED:
            return entry.deadline if entry.served or now < entry.deadline else entry.deadline + UNSERVED_SECONDS
        case Phase.STARTING | Phase.FINISHING | Phase.FAILED:
            return entry.deadline
        case _:
            assert_never(entry.phase)


def _next(entry: Entry, wanted: Target | None, digest: str | None, now: float) -> Iterator[Action]:
    slot = entry.slot
    if digest is None:
        yield Drop(slot, keep_files=False)
    elif digest in (entry.target.definition, entry.refused) or entry.phase is Phase.FINISHING:
        yield from _next_of_same_program(entry, wanted, now)
    elif entry.is_enabled and wanted is not None and wanted.is_same_process(entry.target):
        yield Swap(wanted)
        yield from _keep_going(entry, now)
    else:
        # Its series end when the new definition's begin; if nothing matches that one, at once.
        yield Drop(slot, keep_files=wanted is not None)
        if wanted is not None:
            yield Adopt(wanted)


def _next_of_same_program(entry: Entry, wanted: Target | None, now: float) -> Iterator[Action]:
    """Yield what the entry needs by its own definition, though the config may have one that was refused."""
    slot = entry.slot
    if entry.phase is Phase.EXITED:
        if wanted is not None:
            yield Drop(slot, keep_files=True)
            yield Adopt(wanted)
        elif entry.deadline <= now and (entry.served or entry.deadline + UNSERVED_SECONDS <= now):
            yield Drop(slot, keep_files=False)
    elif entry.phase is Phase.FINISHING:
        if entry.deadline <= now and entry.worker is not None:
            yield Kill(slot, Reason.WORKER_TIMEOUT)
    elif entry.exited or wanted is None or wanted.start_ticks != entry.target.start_ticks:
        yield Finish(slot)
    elif not wanted.is_same_process(entry.target):
        yield _after_exec(entry, wanted)
    else:
        yield from _keep_going(entry, now)


def _after_exec(entry: Entry, wanted: Target) -> Finish | Relink:
    """Begin anew where the process has become another one to whoever looks at its series, else go on with its maps."""
    target = entry.target
    if wanted.definition != target.definition:  # refused: its labels are not those of the definition in force
        return Relink(replace(wanted, definition=target.definition, labels=target.labels))
    is_another = wanted.labels != target.labels or not wanted.exec_mark.is_same_file(target.exec_mark)
    # Without links too: what its maps and files hold was counted under the labels that it had.
    return Finish(entry.slot) if is_another and (entry.is_enabled or entry.continues_files) else Relink(wanted)


def _keep_going(entry: Entry, now: float) -> Iterator[Action]:
    """Yield what a target that is there and wanted needs."""
    slot, worker = entry.slot, entry.worker
    if entry.predecessor_until is not None and entry.predecessor_until <= now:
        yield Clear(slot)
    match entry.phase:
        case Phase.WAITING if worker is None:
            if entry.retry_at <= now:
                yield Start(slot)
        case Phase.WAITING | Phase.STARTING:
            if entry.deadline <= now:
                yield Kill(slot, Reason.WORKER_TIMEOUT)
        case Phase.RUNNING if worker is not None:
            if worker.asked_at is not None and worker.asked_at + HANG_SECONDS <= now:
                yield Kill(slot, Reason.WORKER_TIMEOUT)
            elif worker.asked_at is None and entry.deadline <= now:
                yield Ping(slot)
        case _:
            return
