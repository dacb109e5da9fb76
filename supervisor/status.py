"""What the control socket says of the exporter's state: one line of JSON."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from ebpf_userspace_exporter import __version__
from ebpf_userspace_exporter.supervisor.entry import Entry
from ebpf_userspace_exporter.supervisor.targets import Slot
from ebpf_userspace_exporter.worker.reasons import Reason


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on both clocks: the one that never jumps, and Unix time."""

    monotonic: float
    unix: float

    def unix_at(self, monotonic: float) -> float:
        """Return the Unix time, to the millisecond, of another moment on the monotonic clock."""
        return round(self.unix - (self.monotonic - monotonic), 3)


@dataclass(frozen=True, slots=True)
class Load:
    """The last time that the config was read: when, in Unix time, and what was wrong with it."""

    at: float
    successful: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How many builds have `finished` since the start, of how many; there are `of - finished` to go."""

    finished: int
    of: int


def build_progress(entries: Iterable[Entry], finished: int) -> BuildProgress:
    """Return how far the builds are that targets wait for: one for each program and executable."""
    targets = [entry.target for entry in entries if entry.state == "building"]
    wanted = {(each.definition, each.exec_mark.exe_device, each.exec_mark.exe_inode) for each in targets}
    return BuildProgress(finished, finished + len(wanted))


def ready_line(*, ready: bool) -> str:
    """Return whether the first look at the processes is through."""
    return json.dumps({"ready": ready})


def status_line(
    entries: Iterable[Entry],
    leaderless: Iterable[Slot],
    programs: Iterable[str],
    *,
    ready: bool,
    started: float,
    last_reload: Load,
    builds: BuildProgress,
    comms: Mapping[int, str],
    worker_memory: Mapping[int, int],
    now: Moment,
) -> str:
    """Return every target with its state, and every program with the number of its targets by state.

    `leaderless` are slots that are not taken up, `programs` the names in the config, `started` is Unix time. `comms`
    has the names of the targets' processes, `worker_memory` the bytes that workers have of their own, both by pid.
    """
    targets = [_target(entry, comms, worker_memory, now) for entry in entries]
    targets += [{"program": slot.program, "pid": slot.pid, "state": Reason.LEADER_EXITED} for slot in leaderless]
    states = {name: Counter[str]() for name in programs}
    for target in targets:
        states.setdefault(str(target["program"]), Counter()).update((str(target["state"]),))
    return json.dumps(
        {
            "ready": ready,
            "version": __version__,
            "started": started,
            "last_reload": asdict(last_reload),
            "builds": asdict(builds),
            "programs": [{"name": name, "targets": dict(sorted(count.items()))} for name, count in states.items()],
            "targets": sorted(targets, key=lambda target: (target["program"], target["pid"])),
        }
    )


def _target(entry: Entry, comms: Mapping[int, str], worker_memory: Mapping[int, int], now: Moment) -> dict[str, object]:
    return {
        "program": entry.slot.program,
        "pid": entry.slot.pid,
        "comm": comms.get(entry.slot.pid),
        "labels": dict(entry.target.labels),
        "state": entry.state,
        "since": now.unix_at(max(entry.changed_at, entry.discovered)),
        "attach_seconds": None if entry.attached_at is None else round(entry.attached_at - entry.discovered, 6),
        "generation": entry.generation,
        "worker_memory_bytes": None if entry.worker is None else worker_memory.get(entry.worker.pid),
        "reason": entry.reason,
        "error": entry.error,
    }
