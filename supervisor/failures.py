"""Counts every failure to attach, and tells each kind of it once."""

import re

import structlog

from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.targets import Target
from ebpf_userspace_exporter.worker.reasons import MISSING, AttachError

logger = structlog.get_logger()

MAX_REMEMBERED = 4096
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")


class FailureLog:
    """A program that fails on a hundred processes is one line in the log, and a hundred in the metric."""

    def __init__(self, metrics: OwnMetrics) -> None:
        self._metrics = metrics
        self._told: set[tuple[str, str, str]] = set()

    def note(self, target: Target, error: AttachError) -> None:
        """Count the failure; log it, with the tool's own diagnostics, if it is new for this program."""
        program, pid = target.slot.program, target.slot.pid
        self._metrics.attach_failures.labels(program, error.reason).inc()
        # Numbers differ from process to process: pids, and the addresses of maps in the verifier's words.
        words = _NUMBER.sub("N", error.diagnostics or error.message)
        key = (target.definition, error.reason, words)
        if key in self._told:
            logger.debug("attach failed again", program=program, pid=pid, reason=str(error.reason))
            return
        if len(self._told) < MAX_REMEMBERED:
            self._told.add(key)
        waits = error.reason in MISSING  # a library may be mapped later: nothing need be broken
        (logger.warning if waits else logger.error)(
            "waiting for its probes" if waits else "attach failed",
            program=program,
            pid=pid,
            reason=str(error.reason),
            error=error.message,
            **({"diagnostics": error.diagnostics} if error.diagnostics else {}),
        )

    def note_left_out(self, target: Target, words: str) -> None:
        """Log why rows are not shown, if that is new for this program."""
        program, pid = target.slot.program, target.slot.pid
        key = (target.definition, "left_out", _NUMBER.sub("N", words))
        if key in self._told:
            logger.debug("rows left out again", program=program, pid=pid, reason=words)
            return
        if len(self._told) < MAX_REMEMBERED:
            self._told.add(key)
        logger.warning("rows left out", program=program, pid=pid, reason=words)

    def forget(self) -> None:
        """Tell everything again from now on."""
        self._told.clear()
