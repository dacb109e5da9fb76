"""What ends, and what comes after it: an attempt, a series, a target, an entry."""

from math import inf

import structlog

from ebpf_userspace_exporter.supervisor.builds import Builds
from ebpf_userspace_exporter.supervisor.departures import LEAVE_SECONDS
from ebpf_userspace_exporter.supervisor.detaching import Detacher
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase, Usage
from ebpf_userspace_exporter.supervisor.failures import FailureLog
from ebpf_userspace_exporter.supervisor.pilots import Pilots
from ebpf_userspace_exporter.supervisor.retrying import recheck_seconds, retry_seconds
from ebpf_userspace_exporter.supervisor.roster import Roster
from ebpf_userspace_exporter.supervisor.slot_series import SlotSeries
from ebpf_userspace_exporter.supervisor.targets import Slot, Target
from ebpf_userspace_exporter.worker.reasons import MISSING, PERMANENT, AttachError, Reason

logger = structlog.get_logger()

MAX_WORDS = 4096  # of the tool's diagnostics, which are kept for every target


class Endings:
    """Ends what it is told to; durations in seconds."""

    def __init__(
        self,
        roster: Roster,
        series: SlotSeries,
        builds: Builds,
        failures: FailureLog,
        detacher: Detacher,
        *,
        exit_grace: float,
        rescan_interval: float,
    ) -> None:
        self.pilots = Pilots()
        self._roster = roster
        self._series = series
        self._builds = builds
        self._failures = failures
        self._detacher = detacher
        self._exit_grace = exit_grace
        self._rescan_interval = rescan_interval
        # Slots about to be taken again, by which process they were held, and until when what is in them shows.
        self._left_behind: dict[Slot, tuple[int, float]] = {}

    def fail(self, entry: Entry, error: AttachError, now: float) -> None:
        """Note why there is no worker, and when to try again, if that can help."""
        entry.reason, entry.error = error.reason, f"{error}\n{error.diagnostics[:MAX_WORDS]}".strip()
        entry.attempts += 1
        self._roster.has_changed = True
        if error.reason is not Reason.TARGET_CHANGED:
            self._failures.note(entry.target, error)
        if entry.phase is Phase.FINISHING:
            return
        if error.reason in PERMANENT:
            self._builds.remember_failure(entry.target, error)
            entry.enter(Phase.FAILED, now, deadline=inf)
            self.end_series(entry)
        else:
            entry.enter(Phase.WAITING, now, deadline=now + LEAVE_SECONDS)
            entry.retry_at = now + (
                self.recheck_seconds(entry, now) if error.reason in MISSING else retry_seconds(entry.attempts)
            )
        self._series.withdraw(entry)
        self.let_others_load(entry, now)
        if not entry.continues_files and entry.predecessor_until is None:
            self._series.remove(entry.slot)  # of whoever had the number before, or of another program that it was

    def end(self, entry: Entry, now: float) -> None:
        """Let go of a target whose last values are in its files."""
        self._detacher.let_go(entry, now)
        entry.enter(Phase.EXITED, now, deadline=now + self._exit_grace)
        if self._series.outlive(entry):
            entry.deadline, entry.served = now, True
        self._roster.has_changed = True
        logger.info("detached", program=entry.slot.program, pid=entry.slot.pid, exited=entry.exited)

    def end_series(self, entry: Entry) -> None:
        """Begin from zero: what is counted from now on is not what its files hold."""
        entry.close_holdings()
        entry.usage = Usage()
        entry.dropped, entry.decode_errors = {}, {}
        self._series.end(entry)

    def drop(self, entry: Entry, now: float, *, keep_files: bool) -> None:
        """Forget an entry, and let everything of it go; files that are kept are about to be replaced."""
        if keep_files and entry.phase is Phase.EXITED and not entry.is_aggregated:
            self._left_behind[entry.slot] = (entry.target.start_ticks, entry.deadline)
        self._detacher.let_go(entry, now)
        self._builds.forget(entry.target)
        del self._roster.entries[entry.slot]
        self._series.drop(entry, keep_files=keep_files)
        self.let_others_load(entry, now)
        self._roster.has_changed = True

    def left_behind(self, target: Target) -> float | None:
        """Return until when is shown what the process has left in the slot as what it was before an exec; once.

        What another process has left whose number the target has ends at once.
        """
        start_ticks, until = self._left_behind.pop(target.slot, (0, 0.0))
        return until if start_ticks == target.start_ticks else None

    def let_others_load(self, entry: Entry, now: float) -> None:
        """Have those that waited for this entry to load what they need try it themselves."""
        if self.pilots.give_up(entry.slot):
            self._roster.wake(now)

    def recheck_seconds(self, entry: Entry, now: float) -> float:
        """Return when to see whether an entry has what it lacks."""
        # By the pid: a thousand that were found by one look would else all be looked at in one turn of the loop.
        return recheck_seconds(now - entry.discovered, self._rescan_interval) * (0.5 + entry.slot.pid % 64 / 128)
