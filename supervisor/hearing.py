"""Takes in what workers say, and how they end."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

import structlog

from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.accounts import Accounts
from ebpf_userspace_exporter.supervisor.channels import hear
from ebpf_userspace_exporter.supervisor.descriptors import close_all
from ebpf_userspace_exporter.supervisor.detaching import Detacher
from ebpf_userspace_exporter.supervisor.endings import Endings
from ebpf_userspace_exporter.supervisor.entry import HEALTHY_SECONDS, PING_SECONDS, Entry, Phase, Worker
from ebpf_userspace_exporter.supervisor.failures import FailureLog
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.retrying import restart_seconds
from ebpf_userspace_exporter.supervisor.roster import Roster
from ebpf_userspace_exporter.supervisor.slot_series import SlotSeries
from ebpf_userspace_exporter.worker.messages import (
    Collected,
    Failed,
    Linked,
    Loaded,
    MapsMade,
    Message,
    MessageError,
)
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

logger = structlog.get_logger()

MAX_LAST_READERS = 2


class Hearing:
    """Changes entries by what their workers say; `read_again` forks one more last reader for an entry."""

    def __init__(
        self,
        roster: Roster,
        series: SlotSeries,
        endings: Endings,
        detacher: Detacher,
        *,
        metrics: OwnMetrics,
        failures: FailureLog,
        read_again: Callable[[Entry, float], None],
    ) -> None:
        self._roster = roster
        self._series = series
        self._endings = endings
        self._detacher = detacher
        self._metrics = metrics
        self._accounts = Accounts(metrics, failures)
        self._read_again = read_again

    def on_target_exit(self, entry: Entry) -> None:
        """Take note that a target is gone."""
        entry.exited = True
        self._roster.has_changed = True
        self._detacher.unwatch(entry)

    def on_message(self, entry: Entry, now: float) -> None:
        """Take what the worker has said; once it has answered it says nothing more until it is asked again."""
        worker = entry.worker
        while worker is not None and worker.channel is not None and entry.worker is worker:
            try:
                received = hear(worker.channel)
            except BlockingIOError:
                return
            except MessageError as error:
                self._endings.fail(entry, AttachError(error.reason, str(error)), now)
                received = None
            except OSError:
                received = None
            if received is None:
                self._detacher.hang_up(worker)
                if not worker.is_reaped:
                    children.terminate(worker.pid)  # whatever keeps it: it can say nothing any more
                return
            self._take(entry, worker, *received, now)
            if isinstance(received[0], Collected) and entry.phase is Phase.RUNNING:
                return  # not to ask in vain for more; what comes all the same, the selector tells

    def after_worker(self, entry: Entry, worker: Worker, exit_code: int, now: float) -> None:
        """Decide what the death of a worker means in the phase in which it died."""
        died, ended = worker.killed_for or Reason.WORKER_DIED, children.describe_exit(exit_code)
        name, pid = entry.slot.program, entry.slot.pid
        match entry.phase:
            case Phase.STARTING:
                self._endings.fail(entry, AttachError(died, f"worker ended ({ended}) before it was ready"), now)
            case Phase.RUNNING:
                self._metrics.worker_restarts.labels(name, died).inc()
                entry.attempts = 0 if now - worker.started > HEALTHY_SECONDS else entry.attempts + 1
                entry.enter(Phase.WAITING, now)
                entry.error = f"worker ended ({ended})"
                delay = restart_seconds(entry.attempts)
                entry.retry_at = now + delay
                logger.warning(
                    "worker gone", program=name, pid=pid, ended=ended, reason=died, restart_in=f"{delay:.1f}s"
                )
            case Phase.FINISHING:
                if entry.attempts < MAX_LAST_READERS:
                    self._read_again(entry, now)
                else:
                    logger.error("last values lost", program=entry.slot.program, pid=entry.slot.pid, ended=ended)
                    self._endings.end(entry, now)
            case Phase.WAITING | Phase.EXITED | Phase.FAILED:
                pass  # who is to try again has its time for that
            case _:
                assert_never(entry.phase)

    def _take(
        self,
        entry: Entry,
        worker: Worker,
        message: Message,
        descriptors: Sequence[int],
        now: float,
    ) -> None:
        match message:
            case MapsMade():
                entry.holdings.maps = list(descriptors)
            case Loaded(tags):
                close_all(entry.holdings.programs)  # of what the target executed before
                entry.holdings.programs, entry.holdings.tags = list(descriptors), tags
                entry.usage = replace(entry.usage, functions={})
                if entry.holdings.image is not None and self._endings.pilots.has_loaded(entry.holdings.image):
                    self._roster.wake(now)
            case Linked(more):
                entry.holdings.partial_links.extend(descriptors)
                if not more and not worker.is_replaced:
                    self._on_linked(entry, now)
            case Collected():
                self._on_collected(entry, worker, message, now)
            case Failed(reason, text, diagnostics):
                if not worker.is_replaced:
                    self._endings.fail(entry, AttachError(reason, text, diagnostics), now)
            case _:
                assert_never(message)

    def _on_linked(self, entry: Entry, now: float) -> None:
        holdings = entry.holdings
        holdings.links, holdings.partial_links = holdings.partial_links, []
        entry.attached_at = now
        self._metrics.attach_seconds.observe(now - entry.discovered)

    def _on_collected(self, entry: Entry, worker: Worker, message: Collected, now: float) -> None:
        name, pid = entry.slot.program, entry.slot.pid
        worker.asked_at = None
        self._accounts.take(entry, worker, message)
        self._series.note(entry, message.series)
        if message.publish:
            self._series.publish(entry)
        if entry.phase is Phase.STARTING:
            entry.enter(Phase.RUNNING, now)
            entry.reason, entry.error = None, ""
            logger.info("attached", program=name, pid=pid, generation=entry.generation)
            self._roster.has_changed = True
        if message.final:
            self._endings.end(entry, now)
        elif entry.phase is Phase.RUNNING:
            entry.deadline = now + PING_SECONDS
            worker.answered = message.sequence
