"""The web process's own metrics."""

import bisect
import math
import threading
from itertools import accumulate

from ebpf_userspace_exporter.web.exposition import Family, exposed_names, label_text, number_text
from ebpf_userspace_exporter.web.metric_keys import Kind
from ebpf_userspace_exporter.web.refresh import RefreshResult

_PREFIX = "userspace_exporter_"
_UNREADABLE_FILES = f"{_PREFIX}unreadable_files_total"
_REFRESH_SUCCESSFUL = f"{_PREFIX}refresh_successful"
_STALE_WORKERS = f"{_PREFIX}stale_workers"
_REFRESH_SECONDS = f"{_PREFIX}refresh_seconds"
_SCRAPE_SECONDS = f"{_PREFIX}scrape_seconds"

RESERVED_NAMES = frozenset(
    {_UNREADABLE_FILES, _REFRESH_SUCCESSFUL, _STALE_WORKERS}
    | {*exposed_names(_REFRESH_SECONDS, Kind.HISTOGRAM), *exposed_names(_SCRAPE_SECONDS, Kind.HISTOGRAM)}
)
"""Names that no metric file may use."""


class OwnMetrics:
    """What this process counts over its life; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unreadable_files = 0
        self._refreshes = _Durations((0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0))
        self._scrapes = _Durations((0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0))

    def count_unreadable_files(self, files: int) -> None:
        """Count the files that one scrape had to leave out."""
        with self._lock:
            self._unreadable_files += files

    def observe_refresh(self, seconds: float) -> None:
        """Record how long a scrape waited for the supervisor."""
        with self._lock:
            self._refreshes.observe(seconds)

    def observe_scrape(self, seconds: float) -> None:
        """Record how long a scrape took in all; it shows from the next one on."""
        with self._lock:
            self._scrapes.observe(seconds)

    def families(self, refreshed: RefreshResult) -> list[Family]:
        """Return the metrics as of now, for a scrape whose refresh ended so."""
        with self._lock:
            families = [
                _single(
                    _UNREADABLE_FILES,
                    Kind.COUNTER,
                    "Metric files left out of a scrape because they were empty, torn, corrupt or contradicted another;"
                    " counted once per file and scrape.",
                    self._unreadable_files,
                ),
                _single(
                    _REFRESH_SUCCESSFUL,
                    Kind.GAUGE,
                    "Whether the supervisor answered this scrape in time; if not, values are as last written.",
                    refreshed.ok,
                ),
                self._refreshes.family(_REFRESH_SECONDS, "How long scrapes waited for workers to write their files."),
                self._scrapes.family(
                    _SCRAPE_SECONDS, "How long scrapes took from request to answer, the refresh included."
                ),
            ]
        if refreshed.ok:
            # Without an answer the number is not known, and 0 would say that all is well.
            help_text = "Workers that missed this scrape's deadline; their values are as last written."
            families.append(_single(_STALE_WORKERS, Kind.GAUGE, help_text, refreshed.stale))
        return families


def _single(name: str, kind: Kind, help_text: str, value: float) -> Family:
    return Family(name, kind, help_text, f"{name} {number_text(value)}\n".encode())


class _Durations:
    def __init__(self, upper_bounds: tuple[float, ...]) -> None:
        self._upper_bounds = (*upper_bounds, math.inf)
        self._counts = [0] * len(self._upper_bounds)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(self._upper_bounds, seconds)] += 1
        self._sum += seconds

    def family(self, name: str, help_text: str) -> Family:
        buckets = [
            f"{name}_bucket{{{label_text('le', number_text(bound))}}} {number_text(count)}\n"
            for bound, count in zip(self._upper_bounds, accumulate(self._counts), strict=True)
        ]
        ends = (f"{name}_sum {number_text(self._sum)}\n", f"{name}_count {number_text(sum(self._counts))}\n")
        return Family(name, Kind.HISTOGRAM, help_text, "".join((*buckets, *ends)).encode())
