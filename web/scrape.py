"""One scrape: have the files refreshed, read them, and render them with the process's own metrics."""

import gzip
import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from ebpf_userspace_exporter.web.exposition import Family, render_openmetrics, render_text, restrict
from ebpf_userspace_exporter.web.families import Families
from ebpf_userspace_exporter.web.file_cache import FileCache, MetricFile, UnreadableFile
from ebpf_userspace_exporter.web.own_metrics import RESERVED_NAMES, OwnMetrics
from ebpf_userspace_exporter.web.refresh import RefreshResult, refresh
from ebpf_userspace_exporter.web.shared_work import SharedWork

_MAX_COMPLAINTS = 1000
_GZIP_LEVEL = 1  # a sixth of level 9's time for nine tenths of its effect, on metrics

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Form:
    """What a scrape's answer looks like; without names it has all metrics."""

    openmetrics: bool
    gzip: bool
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the files held at one moment, and the answers made of it so far."""

    families: list[Family]
    unreadable: int
    rendering: threading.Lock = field(default_factory=threading.Lock)
    answers: dict[tuple[Form, RefreshResult], bytes] = field(default_factory=dict)


class Scraper:
    """Reads one state directory; safe to use from several threads."""

    def __init__(self, state_directory: Path, own_metrics: OwnMetrics) -> None:
        self._control_socket = state_directory / "control.sock"
        self._own_metrics = own_metrics
        self._files = FileCache(state_directory)
        self._families = Families(reserved=RESERVED_NAMES)
        self._complaints: set[str] = set()
        self._readings = SharedWork(self._read)

    def scrape(self, refresh_seconds: float, form: Form) -> bytes:
        """Return what there is after at most `refresh_seconds` of waiting for fresh values.

        Scrapes at the same time share a reading, which began after the refresh of each, and what is alike in their
        answers: their own metrics are then those of the first.
        """
        started = time.monotonic()
        refreshed = refresh(self._control_socket, refresh_seconds)
        self._own_metrics.observe_refresh(time.monotonic() - started)
        reading = self._readings.result()
        self._own_metrics.count_unreadable_files(reading.unreadable)
        with reading.rendering:
            answer = reading.answers.get((form, refreshed))
            if answer is None:
                answer = reading.answers[form, refreshed] = self._render(reading, form, refreshed)
        return answer

    def read_ahead(self) -> None:
        """Read the files as a scrape does, for the next one: the first of all decodes every key."""
        self._readings.result()

    def _render(self, reading: _Reading, form: Form, refreshed: RefreshResult) -> bytes:
        own = self._own_metrics.families(refreshed)
        families = sorted([*reading.families, *own], key=lambda family: family.name)
        if form.names:
            families = restrict(families, form.names)
        text = render_openmetrics(families) if form.openmetrics else render_text(families)
        return gzip.compress(text, _GZIP_LEVEL, mtime=0) if form.gzip else text

    def _read(self) -> _Reading:
        outcomes = self._files.read()
        unreadable = [outcome for outcome in outcomes if isinstance(outcome, UnreadableFile)]
        files = [outcome for outcome in outcomes if isinstance(outcome, MetricFile)]
        families, contradicting = self._families.merged(files)
        unreadable += contradicting
        self._complain(unreadable, {file.name for file in files})
        return _Reading(families, len(unreadable))

    def _complain(self, unreadable: list[UnreadableFile], read: set[str]) -> None:
        # Once until it is readable again: a file that stays bad would write a line with every scrape.
        self._complaints -= read - {file.name for file in unreadable}
        for file in unreadable:
            if file.name not in self._complaints and len(self._complaints) < _MAX_COMPLAINTS:
                self._complaints.add(file.name)
                _logger.warning("metric file %r is left out of scrapes: %s", file.name, file.reason)
