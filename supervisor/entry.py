"""What the supervisor knows of one slot: the target, its worker, and what it holds in the worker's stead."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.target_labels import is_aggregated
from ebpf_userspace_exporter.supervisor.descriptors import close_all
from ebpf_userspace_exporter.supervisor.targets import Slot, Target
from ebpf_userspace_exporter.worker.bpf.usage import FunctionUsage, MapUsage
from ebpf_userspace_exporter.worker.image import Image
from ebpf_userspace_exporter.worker.reasons import MISSING, Reason

START_SECONDS = 20.0  # from fork to the first metric file
HANG_SECONDS = 10.0  # an unanswered request, after which a worker is replaced
PING_SECONDS = 60.0  # between requests where nobody scrapes
HEALTHY_SECONDS = 60.0  # a worker that ran so long starts a new count of attempts
FINISH_SECONDS = 5.0  # the last read of a target that exited
UNSERVED_SECONDS = 300.0  # on top of the grace, where nobody scrapes any more


class Phase(StrEnum):
    """Where a slot is in its life; the values are those of the label `state` of targets{name,state}."""

    WAITING = "waiting"  # for its turn, or for the target to map a library that has the probes
    STARTING = "starting"  # a worker loads and attaches
    RUNNING = "running"
    FINISHING = "finishing"  # the target is gone: the last read is under way
    EXITED = "exited"  # the last values are still shown
    FAILED = "failed"  # and trying again would change nothing


# Every value of the label `state`.
STATES = (
    *Phase,
    "building",
    "retrying",
    Reason.LEADER_EXITED,
    Reason.STALE_FILE,
)


@dataclass(slots=True)
class Worker:
    """A live worker process; `asked_at` is the time of a request that is not answered yet."""

    pid: int
    channel: socket.socket | None  # None: it has hung up, or is there only to close links
    started: float
    asked_at: float | None = None
    answered: int = 0  # sequence number of the last request answered
    killed_for: Reason | None = None
    is_replaced: bool = False  # told to go, as its target has executed something: its links are not the new one's
    is_reaped: bool = False  # its number may be another process's by now
    has_collected: bool = False  # before that, what it leaves out is not new: its predecessors have left it out too


@dataclass(slots=True)
class Holdings:
    """What outlives a worker: descriptors of its maps, programs and links. The supervisor never reads from them."""

    image: Image | None = None
    maps: list[int] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    partial_links: list[int] = field(default_factory=list)  # more were announced; worthless if they never come
    programs: list[int] = field(default_factory=list)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker has last said of its maps, functions and lost events, by name; absolute, not what is new."""

    maps: Mapping[str, MapUsage] = field(default_factory=dict)
    functions: Mapping[str, FunctionUsage] = field(default_factory=dict)
    lost_events: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """One slot. Fields change in the supervisor's loop only; `reconcile` reads them."""

    target: Target
    program: Program
    pidfd: int
    discovered: float
    phase: Phase = Phase.WAITING
    worker: Worker | None = None
    holdings: Holdings = field(default_factory=Holdings)
    usage: Usage = field(default_factory=Usage)
    dropped: dict[str, int] = field(default_factory=dict)  # label sets by reason, since its maps were made
    decode_errors: dict[str, int] = field(default_factory=dict)  # keys by metric, since then too
    generation: int = 0
    continues_files: bool = False  # the files in the slot are this target's: a successor goes on from them
    predecessor_until: float | None = None  # until then they are another target's that is gone, and shown
    attached_at: float | None = None
    is_watched: bool = True  # its pidfd is in the selector
    exited: bool = False  # its pidfd says so
    leader_exited: bool = False
    mapped_code: frozenset[tuple[int, int]] | None = None  # what was searched for probes the last time
    attempts: int = 0
    retry_at: float = 0.0
    deadline: float = inf  # of the present phase
    served: bool = False  # a scrape has had the last values
    is_aggregated: bool = field(init=False)  # its labels may be other targets' too: its totals outlive it
    refused: str | None = None  # a later definition of the program that could not be built: this one goes on
    reason: Reason | None = None
    error: str = ""  # the last one, in full
    changed_at: float = 0.0  # when the phase changed the last time

    def __post_init__(self) -> None:
        self.is_aggregated = is_aggregated(self.program)

    def close_holdings(self) -> None:
        """Hold nothing any more; who closes the last copy of a link waits for the kernel."""
        holdings, self.holdings = self.holdings, Holdings()
        for descriptors in (holdings.links, holdings.partial_links, holdings.maps, holdings.programs):
            close_all(descriptors)

    @property
    def slot(self) -> Slot:
        """Where its files are."""
        return self.target.slot

    def enter(self, phase: Phase, now: float, *, deadline: float | None = None) -> None:
        """Begin a phase; without a deadline of its own it has the one before's."""
        if phase is not self.phase:
            self.changed_at = now
        self.phase = phase
        self.deadline = self.deadline if deadline is None else deadline

    @property
    def state(self) -> str:
        """The value of the label `state`: the phase, or what keeps it from the next."""
        if self.leader_exited:
            return Reason.LEADER_EXITED
        if self.phase is Phase.WAITING:
            if self.reason is Reason.STALE_FILE:
                return Reason.STALE_FILE
            if self.is_lacking:
                return Phase.WAITING
            return "building" if self.retry_at == inf else "retrying" if self.attempts else Phase.WAITING
        return self.phase

    @property
    def is_lacking(self) -> bool:
        """Whether it waits for its target to map what is to be probed."""
        return self.phase is Phase.WAITING and self.reason in MISSING

    @property
    def is_taken_up(self) -> bool:
        """Whether the target is served or waits for it; not, if it has ended or is ending."""
        return self.phase not in (Phase.FINISHING, Phase.EXITED)

    @property
    def is_enabled(self) -> bool:
        """Whether its probes count, with or without a live worker."""
        return bool(self.holdings.links) and self.phase in (Phase.WAITING, Phase.STARTING, Phase.RUNNING)
