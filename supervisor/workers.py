"""Does what `reconcile` decides: forks workers, listens to them, holds their maps and links, ends them."""

import itertools
import os
import selectors
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import assert_never

import structlog

from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.builds import Builds
from ebpf_userspace_exporter.supervisor.channels import tell
from ebpf_userspace_exporter.supervisor.departures import LEAVE_SECONDS
from ebpf_userspace_exporter.supervisor.descriptors import close_all, open_pidfd
from ebpf_userspace_exporter.supervisor.detaching import Detacher
from ebpf_userspace_exporter.supervisor.endings import Endings
from ebpf_userspace_exporter.supervisor.entry import (
    FINISH_SECONDS,
    HANG_SECONDS,
    START_SECONDS,
    Entry,
    Phase,
)
from ebpf_userspace_exporter.supervisor.failures import FailureLog
from ebpf_userspace_exporter.supervisor.forking import WorkerSettings, assign, assignment_of, fork_error, fork_worker
from ebpf_userspace_exporter.supervisor.hearing import Hearing
from ebpf_userspace_exporter.supervisor.matching import Definition
from ebpf_userspace_exporter.supervisor.newborns import BIRTH_SECONDS, Newborn, Newborns
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
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
from ebpf_userspace_exporter.supervisor.roster import Roster
from ebpf_userspace_exporter.supervisor.slot_series import SlotSeries
from ebpf_userspace_exporter.supervisor.targets import Slot, Target
from ebpf_userspace_exporter.worker.messages import (
    FINISH,
)
from ebpf_userspace_exporter.worker.process import template_of
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import TargetGone, mapped_code

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all entries share; durations in seconds."""

    selector: selectors.BaseSelector
    exit_grace: float
    rescan_interval: float
    worker_settings: WorkerSettings
    note_refused: Callable[[str], None]  # a changed program that is not taken, and why
    newborns: Newborns | None = None  # None: every worker is forked by this process


class Workers:
    """Every slot's entry, and the children that serve them."""

    def __init__(self, surroundings: Surroundings, builds: Builds, metrics: OwnMetrics) -> None:
        self._roster = Roster()
        self.entries = self._roster.entries
        self._selector = surroundings.selector
        self._worker_settings = settings = surroundings.worker_settings
        self._series = SlotSeries(settings.state_dir, settings.group)
        self.folding = self._series.folding
        self._builds = builds
        self._metrics = metrics
        self._failures = FailureLog(metrics)
        self._note_refused = surroundings.note_refused
        self._newborns = surroundings.newborns
        self._detacher = Detacher(self._selector, self._roster.by_pid)
        self._endings = Endings(
            self._roster,
            self._series,
            builds,
            self._failures,
            self._detacher,
            exit_grace=surroundings.exit_grace,
            rescan_interval=surroundings.rescan_interval,
        )
        self._hearing = Hearing(
            self._roster,
            self._series,
            self._endings,
            self._detacher,
            metrics=metrics,
            failures=self._failures,
            read_again=self._fork_last_reader,
        )
        # Of all slots together: in one slot the worker of a target that was given up may still write.
        self._generations = itertools.count(1)

    def perform(self, action: Action, definitions: Mapping[str, Definition], now: float) -> None:
        """Do one thing that reconcile has decided, unless what was done before it has ended its slot."""
        slot = action.target.slot if isinstance(action, Adopt | Relink | Swap) else action.slot
        if slot not in self.entries and not isinstance(action, Adopt):
            return  # a changed program could not take up its target: it is gone, or there is no descriptor left
        match action:
            case Adopt(target):
                self._adopt(target, definitions[target.slot.program], now)
            case Start(slot):
                self._start(self.entries[slot], now)
            case Relink(target):
                self._relink(self.entries[target.slot], target, now)
            case Swap(target):
                self._swap(self.entries[target.slot], target, definitions[target.slot.program], now)
            case Finish(slot):
                self._finish(self.entries[slot], now)
            case Kill(slot, reason):
                self._kill(self.entries[slot], reason, now)
            case Ping(slot):
                self._ping(self.entries[slot], now)
            case Drop(slot, keep_files):
                self._endings.drop(self.entries[slot], now, keep_files=keep_files)
            case Clear(slot):
                self._clear(self.entries[slot])
            case _:
                assert_never(action)

    def ask(self, entry: Entry, sequence: int, now: float) -> bool:
        """Ask a worker to read its maps; False if it has not answered the last time or cannot be asked."""
        worker = entry.worker
        if worker is None or worker.asked_at is not None:
            return False
        if not tell(worker, b"refresh %d %d" % (sequence, self._series.allowance(entry))):
            return False
        worker.asked_at = now
        return True

    def on_exit(self, pid: int, exit_code: int, now: float) -> bool:
        """Go on without a worker, or finish with one that was leaving; False if that child was neither."""
        departed = self._detacher.departures.on_exit(pid)
        if departed is not None:
            self._series.remove_unpublished(departed.slot, departed.generation)
            return True
        if self.folding.on_exit(pid, exit_code, now):
            return True
        entry = self._roster.by_pid.pop(pid, None)
        if entry is None:
            return self._newborns is not None and self._newborns.on_exit(pid, exit_code, now)
        self._roster.has_changed = True
        worker = entry.worker
        if worker is None or worker.pid != pid:
            return True  # a child that closed what was worth nothing, while the entry went on
        worker.is_reaped = True
        self._hearing.on_message(entry, now)
        self._series.remove_unpublished(entry.slot, entry.generation)
        if entry.worker is not worker:
            return True  # its last message has ended the entry's need of it
        self._detacher.hang_up(worker)
        entry.worker = self._detacher.close_partial_links(entry, now)
        self._hearing.after_worker(entry, worker, exit_code, now)
        return True

    def kill_late(self, now: float) -> None:
        """End the children that take too long to leave: those that still attach have their time to stop."""
        self._detacher.departures.kill_late(now)

    @property
    def has_changed(self) -> bool:
        """Whether something happened that reconcile should look at."""
        return self._roster.has_changed

    @has_changed.setter
    def has_changed(self, value: bool) -> None:
        self._roster.has_changed = value

    def on_build(self, now: float) -> None:
        """Have everybody who waits for an image ask again."""
        self._roster.wake(now)

    def on_reload(self, definitions: Mapping[str, Definition]) -> None:
        """Try what was refused again, and report failures anew: the operator may have mended some."""
        self.folding.define(definitions)
        self._failures.forget()
        for entry in self.entries.values():
            entry.refused = None

    def drop_all(self, now: float) -> None:
        """Let go of everything, to exit; files stay as they are, as a last scrape may be reading them."""
        for entry in list(self.entries.values()):
            self._endings.drop(entry, now, keep_files=True)
        if self._newborns is not None:
            self._newborns.stop(now)

    def terminate_all(self) -> None:
        """Ask every child that is left to end."""
        for pid in (*self._detacher.departures.pids, *self._roster.by_pid):
            children.terminate(pid)

    def kill_all(self) -> None:
        """Kill every child that is left."""
        self.folding.kill()
        for pid in (*self._detacher.departures.pids, *self._roster.by_pid):
            children.kill(pid)

    def close(self) -> None:
        """Let go of what is open, when no child is left."""
        self._series.close()

    @property
    def is_empty(self) -> bool:
        """Whether no child is left."""
        is_served = self._newborns is not None and not self._newborns.is_idle
        return not (is_served or self._detacher.departures.pids or self._roster.by_pid) and self.folding.is_idle

    # Actions

    def _adopt(self, target: Target, definition: Definition, now: float) -> None:
        name, pid = _name(target.slot)
        predecessor_until = self._endings.left_behind(target)
        try:
            pidfd = open_pidfd(pid)
        except AttachError as error:
            self._failures.note(target, error)
            self._series.remove(target.slot)
            return
        # Only now is it certain that the number is not somebody else's.
        seen = None if pidfd is None else read_process(pid)
        if pidfd is None or seen is None or seen.is_dead or seen.start_ticks != target.start_ticks:
            if pidfd is not None:
                os.close(pidfd)
            self._metrics.targets_missed.labels(name).inc()
            self._series.remove(target.slot)
            return
        entry = Entry(target, definition.program, pidfd, now, predecessor_until=predecessor_until, changed_at=now)
        self.entries[target.slot] = entry
        self._series.begin(entry)
        self._selector.register(pidfd, selectors.EVENT_READ, lambda _now: self._hearing.on_target_exit(entry))
        self._roster.has_changed = True

    def _start(self, entry: Entry, now: float) -> None:
        try:
            if entry.is_lacking and mapped_code(entry.slot.pid) == entry.mapped_code:
                entry.retry_at = now + self._endings.recheck_seconds(entry, now)
                return
            if not entry.holdings.links and not self._prepare(entry, now):
                return
            newborn = None
            if self._newborns is not None and not entry.holdings.maps:
                template = template_of(assignment_of(entry, self._worker_settings, 0))
                newborn = self._newborns.take(template)
                if newborn is None and self._newborns.order(template, lambda now: self._roster.retry(entry, now), now):
                    entry.retry_at = now + BIRTH_SECONDS
                    return
            self._fork_worker(entry, now, newborn)
        except AttachError as error:
            self._endings.fail(entry, error, now)
        except TargetGone as error:
            self._endings.fail(entry, AttachError(Reason.TARGET_CHANGED, str(error)), now)
        except OSError as error:
            self._endings.fail(entry, fork_error(error), now)

    def _prepare(self, entry: Entry, now: float) -> bool:
        """Find the image; maps made for another one, and their series, end here. False if it is to be waited for."""
        if entry.mapped_code is None or entry.is_lacking:
            # Before it is searched: what is mapped meanwhile must seem new.
            entry.mapped_code, entry.reason = mapped_code(entry.slot.pid), None
        try:
            image = self._builds.image_for(entry.target, entry.program, entry.mapped_code, now)
        except AttachError as error:
            if error.reason is not Reason.TARGET_CHANGED:
                self._endings.end_series(entry)  # it has executed something that cannot be probed
            raise
        if image is None:
            entry.retry_at = inf  # until a build ends
            return False
        if image is not entry.holdings.image:
            self._endings.end_series(entry)
            entry.holdings.image = image
        if not self._endings.pilots.may_load(image, entry.slot):
            entry.retry_at = inf
            return False
        return True

    def _fork_worker(self, entry: Entry, now: float, newborn: Newborn | None = None) -> None:
        entry.generation = next(self._generations)
        settings, max_series = self._worker_settings, self._series.allowance(entry)
        if newborn is None:
            worker = fork_worker(entry, settings, max_series, now)
        else:
            worker = assign(newborn, entry, settings, max_series, now)
        entry.worker = worker
        assert worker.channel is not None, "a worker begins with one"  # noqa: S101 - for the type checker
        self._selector.register(worker.channel, selectors.EVENT_READ, lambda now: self._hearing.on_message(entry, now))
        self._roster.by_pid[worker.pid] = entry
        if entry.phase is Phase.WAITING:
            entry.enter(Phase.STARTING, now, deadline=now + START_SECONDS)

    def _relink(self, entry: Entry, target: Target, now: float) -> None:
        logger.info("target executed another program", program=target.slot.program, pid=target.slot.pid)
        self._builds.forget(entry.target)
        may_attach = entry.phase is Phase.STARTING
        self._endings.let_others_load(entry, now)
        entry.target, entry.discovered = target, now
        entry.enter(Phase.WAITING, now, deadline=now + LEAVE_SECONDS)
        entry.retry_at = now
        entry.attempts, entry.reason, entry.mapped_code = 0, None, None
        entry.worker = worker = self._detacher.last_to_close(entry, now)
        close_all(entry.holdings.links)
        close_all(entry.holdings.partial_links)
        if worker is not None:
            worker.is_replaced = True
            self._roster.by_pid[worker.pid] = entry
            if may_attach:
                children.terminate(worker.pid)
            else:
                self._detacher.hang_up(worker)  # killed, it would close its links one after another

    def _swap(self, entry: Entry, target: Target, definition: Definition, now: float) -> None:
        """Change to a changed program when it is built; one that cannot be leaves the old one at work."""
        if entry.refused == target.definition:
            return
        try:
            image = self._builds.image_for(target, definition.program, mapped_code(target.slot.pid), now)
        except (AttachError, TargetGone) as error:
            if isinstance(error, AttachError) and error.reason is not Reason.TARGET_CHANGED:
                entry.refused = target.definition
                self._failures.note(target, error)
                self._note_refused(f"program {target.slot.program}: {error}; the one before goes on")
                logger.error("changed program not taken; the one before goes on", program=target.slot.program)
            return
        except OSError as error:  # no builder could be forked: the next look asks again
            logger.warning("changed program not built yet", program=target.slot.program, error=str(error))
            return
        if image is None:
            return
        if entry.is_aggregated:
            self._finish(entry, now)  # its totals outlive it: they are read for the last time before it is dropped
        else:
            self._endings.drop(entry, now, keep_files=True)
            self._adopt(target, definition, now)
        if image.process_bound and target.slot in self.entries:
            self._builds.give_back(target, image)

    def _finish(self, entry: Entry, now: float) -> None:
        self._hearing.on_message(entry, now)  # it may have attached just now
        holdings = entry.holdings
        if not holdings.maps or not (holdings.links or entry.continues_files):
            if entry.attached_at is None and entry.phase is not Phase.FAILED:
                self._metrics.targets_missed.labels(entry.slot.program).inc()
            if entry.predecessor_until is None:
                self._endings.drop(entry, now, keep_files=False)
            else:
                self._detacher.let_go(entry, now)
                entry.enter(Phase.EXITED, now, deadline=entry.predecessor_until)
                entry.predecessor_until = None
            return
        entry.enter(Phase.FINISHING, now, deadline=now + FINISH_SECONDS)
        entry.attempts = 0
        if entry.worker is None:
            self._fork_last_reader(entry, now)
        else:
            tell(entry.worker, FINISH + b" %d" % self._series.allowance(entry))

    def _fork_last_reader(self, entry: Entry, now: float) -> None:
        """Have what was counted while no worker lived written, by one that does nothing else."""
        entry.attempts += 1
        entry.deadline = now + FINISH_SECONDS
        try:
            self._fork_worker(entry, now)
        except OSError as error:
            logger.error("last values lost", program=entry.slot.program, pid=entry.slot.pid, error=str(error))
            self._endings.end(entry, now)
            return
        if entry.worker is not None:
            tell(entry.worker, FINISH + b" %d" % self._series.allowance(entry))

    def _kill(self, entry: Entry, reason: Reason, now: float) -> None:
        worker = entry.worker
        if worker is None:
            return
        may_attach = entry.phase is Phase.STARTING and worker.killed_for is None
        worker.killed_for = reason
        worker.asked_at = now
        entry.deadline = now + HANG_SECONDS
        (children.terminate if may_attach else children.kill)(worker.pid)

    def _ping(self, entry: Entry, now: float) -> None:
        if not self.ask(entry, 0, now):
            entry.deadline = now + HANG_SECONDS  # it is about to exit; if it does not, it is asked again

    def _clear(self, entry: Entry) -> None:
        entry.predecessor_until = None
        self._series.remove(entry.slot)


def _name(slot: Slot) -> tuple[str, int]:
    return slot.program, slot.pid
