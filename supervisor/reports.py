"""What the supervisor says of itself: its own metrics as files, its status as a line."""

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from ebpf_userspace_exporter.supervisor.entry import Entry
from ebpf_userspace_exporter.supervisor.matching import Definition
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.processes import read_comm
from ebpf_userspace_exporter.supervisor.state_dir import StateDir
from ebpf_userspace_exporter.supervisor.status import Load, Moment, build_progress, status_line
from ebpf_userspace_exporter.supervisor.targets import Slot
from ebpf_userspace_exporter.supervisor.worker_memory import WorkerMemory
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
    _worker_memory: WorkerMemory = field(default_factory=WorkerMemory)
    _builds_told: int = 0

    def note_load(self, error: str = "") -> None:
        """Take note that the config was loaded, or why not."""
        self._last_load = Load(time.time(), successful=not error, error=error)
        self.metrics.reload_successful.set(not error)
        if not error:
            self.metrics.reload_time.set_to_current_time()

    def tell_of_builds(self, entries: Iterable[Entry], finished: int) -> None:
        """Say in the log how far the builds are, where more are to come: the first ones take a second each."""
        if finished == self._builds_told:
            return
        self._builds_told = finished
        progress = build_progress(entries, finished)
        if progress.of > finished:
            logger.info("building", finished=finished, of=progress.of)

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
        builds_finished: int,
    ) -> str:
        """Return the status as one line."""
        pids = {slot.pid for slot, entry in entries.items() if not entry.exited} | {slot.pid for slot in leaderless}
        return status_line(
            entries.values(),
            [slot for slot in leaderless if slot not in entries],
            definitions,
            ready=ready,
            started=self._started,
            last_reload=self._last_load,
            builds=build_progress(entries.values(), builds_finished),
            comms={pid: comm for pid in pids if (comm := read_comm(pid)) is not None},
            worker_memory=self._worker_memory.measure(
                entry.worker.pid for entry in entries.values() if entry.worker is not None
            ),
            now=Moment(time.monotonic(), time.time()),
        )
