"""What the supervisor says of itself: its own metrics as files, its status as a line."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import structlog

from ebpf_userspace_exporter.supervisor.entry import Entry
from ebpf_userspace_exporter.supervisor.matching import Definition
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.state_dir import StateDir
from ebpf_userspace_exporter.supervisor.status import Load, Moment, status_line
from ebpf_userspace_exporter.supervisor.targets import Slot
from ebpf_userspace_exporter.worker.metric_file import MetricFileError, write_metric_file
from ebpf_userspace_exporter.worker.reasons import Reason

logger = structlog.get_logger()


@dataclass(slots=True)
class Reports:
    """`group` is the web's, which reads the files."""

    metrics: OwnMetrics
    state_dir: StateDir
    group: int | None
    _started: float = field(default_factory=time.time)
    _last_load: Load = field(default_factory=lambda: Load(time.time(), successful=True, error=""))
    _unwritten: str = ""  # why the metrics could not be written the last time

    def note_load(self, error: str = "") -> None:
        """Take note that the config was loaded, or why not."""
        self._last_load = Load(time.time(), successful=not error, error=error)
        self.metrics.reload_successful.set(not error)
        if not error:
            self.metrics.reload_time.set_to_current_time()

    def write_metrics(
        self, entries: Mapping[Slot, Entry], leaderless: Collection[Slot], definitions: Mapping[str, Definition]
    ) -> None:
        """Write the files; `leaderless` are slots of processes that cannot be taken up for want of a leader."""
        states = [(slot.program, entry.state) for slot, entry in entries.items()]
        states += [(slot.program, str(Reason.LEADER_EXITED)) for slot in leaderless if slot not in entries]
        try:
            for kind, content in self.metrics.files(entries.values(), definitions, states).items():
                name = f"{kind}_supervisor.own"
                write_metric_file(name, content, self.group, directory_fd=self.state_dir.descriptor)
        except MetricFileError as error:
            if str(error) != self._unwritten:  # a full file system stays full: not a line with every scrape
                logger.error("own metrics not written", error=str(error))
            self._unwritten = str(error)
        else:
            self._unwritten = ""

    def status(
        self,
        entries: Mapping[Slot, Entry],
        leaderless: Collection[Slot],
        definitions: Mapping[str, Definition],
        *,
        ready: bool,
    ) -> str:
        """Return the status as one line."""
        return status_line(
            entries.values(),
            [slot for slot in leaderless if slot not in entries],
            definitions,
            ready=ready,
            started=self._started,
            last_reload=self._last_load,
            now=Moment(time.monotonic(), time.time()),
        )
