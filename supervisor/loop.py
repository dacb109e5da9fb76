"""The loop: wait for something to happen, look, decide, do. Nothing in it waits for anybody."""

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

import structlog

from ebpf_userspace_exporter.config.errors import ConfigError
from ebpf_userspace_exporter.config.load import Loaded, load_config
from ebpf_userspace_exporter.config.settings import Settings
from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.builds import Builds
from ebpf_userspace_exporter.supervisor.config_watch import ConfigWatch
from ebpf_userspace_exporter.supervisor.control import Client, ControlSocket
from ebpf_userspace_exporter.supervisor.entry import Entry, Phase
from ebpf_userspace_exporter.supervisor.forking import WorkerSettings
from ebpf_userspace_exporter.supervisor.healing import Healer
from ebpf_userspace_exporter.supervisor.lookout import Lookout
from ebpf_userspace_exporter.supervisor.matching import Definition, definitions
from ebpf_userspace_exporter.supervisor.newborns import Newborns
from ebpf_userspace_exporter.supervisor.notify import Watchdog, notify, reloading
from ebpf_userspace_exporter.supervisor.own_metrics import OwnMetrics
from ebpf_userspace_exporter.supervisor.proc_events import subscribe
from ebpf_userspace_exporter.supervisor.reconcile import Adopt, next_deadline, reconcile
from ebpf_userspace_exporter.supervisor.refresh import Refresher
from ebpf_userspace_exporter.supervisor.reports import Reports
from ebpf_userspace_exporter.supervisor.signals import Signals
from ebpf_userspace_exporter.supervisor.state_dir import CONTROL_SOCKET, StateDir
from ebpf_userspace_exporter.supervisor.status import ready_line
from ebpf_userspace_exporter.supervisor.webserver import WebServer, WebUser
from ebpf_userspace_exporter.supervisor.workers import Surroundings, Workers

logger = structlog.get_logger()

SHUT_DOWN_SECONDS = 4.0
MAX_PASSES = 8  # of reconcile, before others get their turn
TURN_SECONDS = 0.2  # of doing what it says: to start a thousand workers takes many seconds
MIN_PAUSE_SECONDS = 0.01
READ_SECONDS = 2.0  # that the web may take to read the files after its refresh


@dataclass(frozen=True, slots=True)
class Foundations:
    """What `run` has found out or made before the loop begins."""

    settings: Settings
    loaded: Loaded
    config_watch: ConfigWatch
    state_dir: StateDir
    web_user: WebUser
    builds: Builds
    uprobe_multi: bool
    trusted: bool
    rehearse: Callable[[], None]  # in the fork server, what workers do


class Supervisor:
    """Owns everything that is not a child's."""

    def __init__(self, foundations: Foundations) -> None:
        self._foundations = foundations
        settings, state_dir, user = foundations.settings, foundations.state_dir, foundations.web_user
        config = foundations.loaded.config
        self._definitions: dict[str, Definition] = definitions(config.programs)
        self._selector = selectors.DefaultSelector()
        self._signals = Signals()
        self._selector.register(self._signals.wakeup, selectors.EVENT_READ, lambda _now: None)
        self._metrics = OwnMetrics()
        self._metrics.attach_mode.labels("uprobe_multi" if foundations.uprobe_multi else "perf_event").set(1)
        self._metrics.announce(self._definitions)
        self._reports = Reports(self._metrics, state_dir, user.group)
        self._reports.note_load()
        self._lookout = Lookout(
            self._definitions,
            config.exclude,
            self._metrics,
            scan_interval=settings.scan_interval,
            rescan_interval=settings.rescan_interval,
            events=subscribe(self._selector),
        )
        self._builds = foundations.builds
        self._newborns = Newborns(self._selector, foundations.rehearse)
        self._newborns.start(time.monotonic())
        self._workers = Workers(
            Surroundings(
                self._selector,
                settings.exit_grace,
                settings.rescan_interval,
                WorkerSettings(state_dir, user.group, foundations.uprobe_multi),
                self._reports.note_load,
                self._newborns,
            ),
            self._builds,
            self._metrics,
        )
        self._workers.folding.define(self._definitions)
        self._healer = Healer()
        self._refresher = Refresher(self._workers.ask, self._finish_refresh)
        self._control = ControlSocket(
            state_dir.path / CONTROL_SOCKET,
            group=user.group,
            allowed_uids={0, os.geteuid(), user.uid},
            selector=self._selector,
            on_refresh=lambda client, seconds: self._refresher.request(client, time.monotonic() + seconds),
            on_ready=lambda: ready_line(ready=self._is_ready),
            on_status=self._status_line,
        )
        self._config_watch = foundations.config_watch
        self._watchdog = Watchdog(os.environ)
        self._web = WebServer(settings.listen, settings.metrics_path, state_dir.path, user)
        self._reconcile_at = 0.0
        self._is_ready = False
        self._stop: int | None = None

    def run(self) -> int:
        """Run until told to stop; return the exit code."""
        now = time.monotonic()
        self._web.start(now)
        while self._stop is None:
            now = self._wait()
            self._observe(now)
            self._decide_and_do(now)
        return self._shut_down()

    def _wait(self) -> float:
        """Sleep until something happens or is due, and take in what has happened; return the time."""
        due = min(
            0.0 if self._workers.has_changed else inf,
            self._lookout.next_deadline(),
            self._config_watch.next_deadline(),
            self._watchdog.next_deadline(),
            self._reconcile_at,
            self._refresher.next_deadline(),
            self._control.next_deadline(),
            self._builds.next_deadline(),
            self._workers.folding.next_deadline(),
            self._web.retry_at,
        )
        # Rounded up: epoll counts in milliseconds, and waking early would be waking twice.
        ready = self._selector.select(max(0.0, due - time.monotonic() + 0.0005))
        now = time.monotonic()
        for key, _ in ready:
            key.data(now)
        for number in self._signals.read():
            self._on_signal(number, now)
        if self._config_watch.has_changed(now):
            self._reload()
        return now

    def _observe(self, now: float) -> None:
        table = self._lookout.look(self._workers.entries, now)
        if table is None:
            return
        if self._foundations.uprobe_multi:
            self._healer.look(table, self._workers.entries.values(), now)
        self._workers.has_changed = True

    def _decide_and_do(self, now: float) -> None:
        turn_end = time.monotonic() + TURN_SECONDS
        for _ in range(MAX_PASSES):
            if not self._workers.has_changed and now < self._reconcile_at:
                break
            self._workers.has_changed = False
            self._lookout.forget_exited(self._workers.entries)
            digests = {name: definition.digest for name, definition in self._definitions.items()}
            for action in reconcile(self._lookout.desired, self._workers.entries, digests, now):
                self._workers.perform(action, self._definitions, now)
                if isinstance(action, Adopt) and action.target.slot not in self._workers.entries:
                    del self._lookout.desired[action.target.slot]  # gone, or refused: the next look will tell
                if time.monotonic() > turn_end:
                    self._workers.has_changed = True
                    break  # what is left is decided anew
            self._reconcile_at = min(
                (next_deadline(entry, now) for entry in self._workers.entries.values()), default=inf
            )
            self._reconcile_at = max(self._reconcile_at, now + MIN_PAUSE_SECONDS)
            if time.monotonic() > turn_end:
                break
        self._reports.tell_of_builds(self._workers.entries.values(), self._builds.finished)
        self._refresher.advance(self._workers.entries.values(), now)
        self._workers.kill_late(now)
        self._workers.folding.advance(now)
        self._builds.kill_late(now)
        self._control.drop_late(now)
        self._web.start(now)
        self._watchdog.ping(now)
        self._become_ready()

    def _become_ready(self) -> None:
        """Ready is: every target of the first look has been attached, or has failed to."""
        entries = self._workers.entries
        if (
            self._is_ready
            or self._lookout.first is None
            or any(_is_new(entries[slot]) for slot in self._lookout.first if slot in entries)
        ):
            return
        self._is_ready = True
        self._write_own_metrics()
        attached = sum(entry.is_enabled for entry in entries.values())
        notify("READY=1", f"STATUS={attached} targets attached")
        logger.info("ready", attached=attached, not_attached=len(entries) - attached)
        self._lookout.tell_unmatched()

    # Events

    def _on_signal(self, number: int, now: float) -> None:
        match number:
            case signal.SIGCHLD:
                for pid, exit_code in children.reap().items():
                    self._on_child_exit(pid, exit_code, now)
            case signal.SIGHUP:
                self._reload()
            case signal.SIGTERM | signal.SIGINT:
                logger.info("stopping", signal=signal.Signals(number).name)
                self._stop = 0

    def _on_child_exit(self, pid: int, exit_code: int, now: float) -> None:
        if self._builds.on_exit(pid, exit_code, now):
            self._workers.on_build(now)
        elif self._web.on_exit(pid, exit_code, now):
            if self._web.could_never_listen:
                self._stop = 1
        elif not self._workers.on_exit(pid, exit_code, now):
            self._healer.on_exit(pid)

    def _reload(self) -> None:
        """Take the probe config again; a broken one changes nothing."""
        notify(*reloading())
        self._config_watch.take()
        path = self._foundations.settings.probe_config
        try:
            loaded = load_config(path, trusted=self._foundations.trusted)
        except ConfigError as error:
            logger.error("config not reloaded; the one before stays in force", errors=str(error))
            self._reports.note_load(str(error))
        else:
            for text in loaded.warnings:
                logger.warning("config", warning=text)
            self._definitions = definitions(loaded.config.programs)
            self._lookout.define(self._definitions, loaded.config.exclude)
            self._metrics.announce(self._definitions)
            self._builds.retain(definition.digest for definition in self._definitions.values())
            self._workers.on_reload(self._definitions)
            self._reports.note_load()
            logger.info("config reloaded", programs=len(self._definitions))
        self._write_own_metrics()
        notify("READY=1")

    def _finish_refresh(self, clients: Iterable[Client], fresh: int, stale: int) -> None:
        self._write_own_metrics()
        for client in clients:
            self._control.answer(client, f"ok {fresh} {stale}")
        for entry in self._workers.entries.values():
            if entry.phase is Phase.EXITED and not entry.served:
                entry.served = True
                entry.deadline = max(entry.deadline, time.monotonic() + READ_SECONDS)

    def _write_own_metrics(self) -> None:
        self._reports.write_metrics(self._workers.entries, self._lookout.leaderless, self._definitions)

    def _status_line(self) -> str:
        entries, leaderless = self._workers.entries, self._lookout.leaderless
        return self._reports.status(
            entries, leaderless, self._definitions, ready=self._is_ready, builds_finished=self._builds.finished
        )

    # The end

    def _shut_down(self) -> int:
        """Let everything go and wait for the children, for a bounded time."""
        notify("STOPPING=1")
        self._lookout.close()
        self._control.close()
        self._web.stop()
        self._builds.kill_all()
        self._healer.stop()
        self._workers.drop_all(time.monotonic())
        self._wait_until_childless(SHUT_DOWN_SECONDS)
        self._workers.terminate_all()
        self._wait_until_childless(0.25)
        self._workers.kill_all()
        self._healer.kill()
        if self._web.pid is not None:
            children.kill(self._web.pid)
        self._wait_until_childless(0.5)
        self._selector.close()
        self._workers.close()
        self._foundations.state_dir.close()
        logger.info("stopped")
        return self._stop or 0

    def _has_children(self) -> bool:
        return not (self._workers.is_empty and self._builds.is_empty and self._healer.is_idle and self._web.pid is None)

    def _wait_until_childless(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._has_children() and time.monotonic() < deadline:
            self._selector.select(max(0.0, deadline - time.monotonic()))
            self._signals.read()
            for pid, exit_code in children.reap().items():
                self._on_child_exit(pid, exit_code, time.monotonic())


def _is_new(entry: Entry) -> bool:
    return entry.attempts == 0 and entry.phase in (Phase.WAITING, Phase.STARTING)
