"""gunicorn, as an unprivileged child: started, restarted when it dies, ended with us."""

import errno
import os
import pwd
import signal
import socket
import sys
from dataclasses import dataclass
from math import inf
from pathlib import Path

import structlog

from ebpf_userspace_exporter.config.address import ListenAddress
from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.worker.kernel import (
    clear_ambient_capabilities,
    set_no_new_privileges,
    set_parent_death_signal,
)

logger = structlog.get_logger()

DEFAULT_USER = "ebpf-userspace-exporter-web"
FALLBACK_USER = "nobody"
EXIT_CANNOT_LISTEN = 71
MAX_DELAY_SECONDS = 5.0
HEALTHY_SECONDS = 30.0
BACKLOG = 128


class WebUserError(Exception):
    """There is no such user."""


@dataclass(frozen=True, slots=True)
class WebUser:
    """Who the web runs as; `group` is None where we are not root and cannot become anybody else."""

    uid: int
    group: int | None


def web_user(name: str | None) -> WebUser:
    """Return the user of that name; without one, our own if it exists, else nobody."""
    if os.geteuid() != 0:
        return WebUser(os.geteuid(), None)
    for candidate in (name,) if name is not None else (DEFAULT_USER, FALLBACK_USER):
        try:
            entry = pwd.getpwnam(candidate)
        except KeyError:
            continue
        return WebUser(entry.pw_uid, entry.pw_gid)
    raise WebUserError(f"--web-user: no user {name or FALLBACK_USER!r} on this system")


class WebServer:
    """At most one gunicorn; dead ones are followed by another, later each time."""

    def __init__(self, listen: ListenAddress, metrics_path: str, state_dir: Path, user: WebUser) -> None:
        self._listen = listen
        self._user = user
        self._environment = {
            "USERSPACE_EXPORTER_WEB_STATE_DIR": str(state_dir),
            "USERSPACE_EXPORTER_WEB_METRICS_PATH": metrics_path,
        }
        self.pid: int | None = None
        self.could_never_listen = False  # the address is wrong or taken: better said at start than tried for ever
        self._started = 0.0
        self._starts = 0
        self._attempts = 0
        self._is_stopping = False
        self.retry_at = 0.0

    def start(self, now: float) -> None:
        """Fork and execute gunicorn, unless it runs or its time has not come."""
        if self.pid is not None or now < self.retry_at:
            return
        self._started = now
        try:
            self.pid = children.spawn("exporter-web", self._execute, keep=())
        except OSError as error:
            logger.error("web not started", error=str(error))
            self.retry_at = now + MAX_DELAY_SECONDS
            return
        self._starts += 1
        self.retry_at = inf

    def on_exit(self, pid: int, exit_code: int, now: float) -> bool:
        """Note that gunicorn is gone, and when to try again; False if that child was not it."""
        if pid != self.pid:
            return False
        self.pid = None
        self._attempts = 0 if now - self._started > HEALTHY_SECONDS else self._attempts + 1
        self.could_never_listen = exit_code == EXIT_CANNOT_LISTEN and self._starts == 1
        if self._is_stopping or self.could_never_listen:
            logger.info("web exited", ended=children.describe_exit(exit_code))
            return True
        delay = min(MAX_DELAY_SECONDS, 0.1 * 2 ** (self._attempts - 1)) if self._attempts else 0.0
        self.retry_at = now + delay
        logger.warning("web exited", ended=children.describe_exit(exit_code), restart_in=f"{delay:.1f}s")
        return True

    def stop(self) -> None:
        """Ask gunicorn to end; it gives requests in flight a moment."""
        self._is_stopping = True
        self.retry_at = inf
        if self.pid is not None:
            children.terminate(self.pid)

    def _execute(self) -> None:
        """In the child: listen, become the web user for good, and become gunicorn."""
        parent = os.getppid()
        try:
            listener = listen(self._listen)
        except OSError as error:
            logger.error(
                "cannot listen; choose another --listen-address, or end who listens there",
                address=str(self._listen),
                error=error.strerror or str(error),
            )
            raise SystemExit(EXIT_CANNOT_LISTEN) from error
        host, port = listener.getsockname()[:2]
        logger.info("listening", address=str(ListenAddress(host, port)))
        listener.set_inheritable(True)
        if self._user.group is not None:
            os.setgroups([])
            os.setgid(self._user.group)
            os.setuid(self._user.uid)
        # Without a change of user the exec would hand them on, as it is meant to from systemd to us.
        clear_ambient_capabilities()
        set_no_new_privileges()
        # The change of user has cleared it.
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:
            return
        os.umask(0o077)
        os.chdir("/")
        arguments = [
            sys.executable,
            "-I",  # nothing from the environment or the working directory is imported
            "-m",
            "gunicorn",
            "--config=python:ebpf_userspace_exporter.web.gunicorn_settings",
            f"--bind=fd://{listener.fileno()}",
            "ebpf_userspace_exporter.web.app:application",
        ]
        os.execve(sys.executable, arguments, self._environment)  # noqa: S606 - no shell is wanted


def listen(address: ListenAddress) -> socket.socket:
    """Return a listening socket; the address of all v6 hosts takes v4 too, as in Go."""
    listener = None
    last_error = OSError(errno.EADDRNOTAVAIL, f"no address for {address.host!r}")
    for host in _hosts(address.host):
        try:
            found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except socket.gaierror as error:
            last_error = OSError(errno.EADDRNOTAVAIL, f"{host}: {error.strerror}")
            continue
        family, kind, protocol, _, place = found[0]
        try:
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            listener.bind(place)
            listener.listen(BACKLOG)
        except OSError as error:
            last_error = error
            if listener is not None:
                listener.close()
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
        else:
            return listener
    raise last_error


def _hosts(host: str) -> tuple[str, ...]:
    """Return what to try: on a host without IPv6, all addresses are the v4 ones."""
    return ("::", "0.0.0.0") if host in ("", "::") else (host,)  # noqa: S104 - asked for by the operator
