"""gunicorn's settings, for `-c python:ebpf_userspace_exporter.web.gunicorn_settings`; each name is one of gunicorn's.

https://docs.gunicorn.org/en/stable/settings.html. What is not here comes from the supervisor: the bound socket.
"""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import struct
import threading
from typing import Any

wsgi_app = "ebpf_userspace_exporter.web.app:application"

# An exporter has one or two clients. Threads, so that a slow one does not keep another waiting; one process, as
# its own counters would otherwise depend on which process answers.
worker_class = "gthread"
workers = 1
threads = 8
preload_app = False

# gunicorn puts its working directory first on sys.path: it must not be anybody's.
chdir = "/"
# Since 25.1 gunicorn opens a control socket in the home directory by default; ours has none.
control_socket_disable = True
# The heartbeat file; on a disk its fchmod can block. Containers without /dev/shm get the temporary directory.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - mkstemp, unlinked at once

# Longer than usual scrape intervals, so that Prometheus keeps its connection.
keepalive = 65
# The main loop beats on its own, whatever requests do: only a process that hangs or is stopped misses this.
timeout = 10
# With TERM the supervisor has 5 s for everything.
graceful_timeout = 2

# Room for many name[]; headers for a proxy's additions, not more.
limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 4096

accesslog = None
errorlog = "-"
loglevel = "warning"

# A client that stops in the middle of a request, or stops reading, holds one of the threads only so long.
CLIENT_STALL_SECONDS = 5

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_M_ARENA_MAX = -8


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn passes both and ships no types
    """In the worker: make it die with its master, gain nothing by exec, and wait for no client without end."""
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(AttributeError):  # of glibc alone
        # Else each thread that once held a large answer keeps room for it: 70 MB with 100 000 series.
        libc.mallopt(_M_ARENA_MAX, 1)
    # Not inherited over fork: the supervisor's setting protects the master alone.
    _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker.ppid:
        # The master died before the call above; its death will not be told again.
        os._exit(1)
    stall = struct.pack("ll", CLIENT_STALL_SECONDS, 0)
    for listener in worker.sockets:
        # Accepted sockets inherit both from the listening one; gunicorn itself sets no timeout on a blocking one.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, stall)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, stall)
    worker.log.error_log.addFilter(_is_no_stalled_client)
    for handler in worker.log.error_log.handlers:
        logging.getLogger("ebpf_userspace_exporter").addHandler(handler)


def post_worker_init(worker: Any) -> None:
    """In the worker: begin to read the files before anybody asks; with a hundred thousand series it takes a second."""
    threading.Thread(target=worker.wsgi.read_ahead, name="read-ahead", daemon=True).start()


def _is_no_stalled_client(record: logging.LogRecord) -> bool:
    # gunicorn logs the timeouts above with a traceback: whoever reaches the port could fill the log.
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))


def _prctl(libc: ctypes.CDLL, option: int, argument: int) -> None:
    # Unsigned longs all: the kernel refuses no_new_privs with anything but zeros in the unused ones.
    if libc.prctl(option, *map(ctypes.c_ulong, (argument, 0, 0, 0))) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {argument}): {os.strerror(code)}")
