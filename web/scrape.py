"""One scrape: have the files refreshed, read them, merge them with the process's own metrics."""

import logging
import threading
import time
from pathlib import Path

from ebpf_userspace_exporter.web.families import Family, Merge
from ebpf_userspace_exporter.web.metric_files import MetricFile, MetricFileError, UnreadableFile, read_metric_files
from ebpf_userspace_exporter.web.own_metrics import RESERVED_NAMES, OwnMetrics
from ebpf_userspace_exporter.web.refresh import refresh

_logger = logging.getLogger(__name__)
_MAX_COMPLAINTS = 1000


class Scraper:
    """Reads one state directory; safe to use from several threads."""

    def __init__(self, state_directory: Path, own_metrics: OwnMetrics) -> None:
        self._state_directory = state_directory
        self._own_metrics = own_metrics
        self._complaints: set[str] = set()
        # The interpreter runs one thread at a time: reading in turn costs no time, and the memory of one reading.
        self._reading = threading.Lock()

    def scrape(self, refresh_seconds: float) -> list[Family]:
        """Return what there is after at most `refresh_seconds` of waiting for fresh values."""
        started = time.monotonic()
        refreshed = refresh(self._state_directory / "control.sock", refresh_seconds)
        self._own_metrics.observe_refresh(time.monotonic() - started)
        with self._reading:
            families = self._read()
        own = Merge()
        for file in self._own_metrics.files(refreshed):
            own.add(file)
        return sorted([*families, *own.families()], key=lambda family: family.name)

    def _read(self) -> list[Family]:
        merge = Merge(reserved=RESERVED_NAMES)
        for file in read_metric_files(self._state_directory):
            match file:
                case MetricFile():
                    try:
                        merge.add(file)
                    except MetricFileError as error:
                        self._leave_out(file.name, str(error))
                    else:
                        self._complaints.discard(file.name)
                case UnreadableFile():
                    self._leave_out(file.name, file.reason)
        return merge.families()

    def _leave_out(self, name: str, reason: str) -> None:
        self._own_metrics.count_unreadable_file()
        # Once until it is readable again: a file that stays bad would write a line with every scrape.
        if name not in self._complaints and len(self._complaints) < _MAX_COMPLAINTS:
            self._complaints.add(name)
            _logger.warning("metric file %r is left out of scrapes: %s", name, reason)
