"""The fork server: a process that forks workers and does nothing else, so that they share what it has in memory.

A child has for itself what it writes and, from before, whatever its parent writes afterwards: of the supervisor, which
goes on working, that is a megabyte. And a child has the more in common with its parent, the more of what it does the
parent has done itself (worker/rehearsal.py).
"""

import gc
import hashlib
import os
import pickle
import socket
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from ebpf_userspace_exporter.supervisor.children import live
from ebpf_userspace_exporter.supervisor.descriptors import close_all
from ebpf_userspace_exporter.worker.kernel import fork_sibling
from ebpf_userspace_exporter.worker.page_sharing import fill_holes, gather_code
from ebpf_userspace_exporter.worker.process import Assignment, run_assigned

SERVER_NAME = "exporter-forks"
WORKER_NAME = "exporter-worker"
_DIGEST_BYTES = 32
_MAX_TEMPLATES = 64


def order(orders: socket.socket, template: Assignment, theirs: socket.socket) -> None:
    """In the supervisor: order a worker for such assignments, whose end of its channel is `theirs`; OSError."""
    pickled = pickle.dumps(template)
    with os.fdopen(os.memfd_create("template"), "wb", buffering=0) as file:  # a message has no room for an image
        file.write(pickled)
        socket.send_fds(orders, [hashlib.sha256(pickled).digest()], [theirs.fileno(), file.fileno()])


def serve(orders: socket.socket, supervisor: int, rehearse: Callable[[], None]) -> None:
    """In the fork server: answer each order with the pid of a worker that is the supervisor's child, until it hangs up.

    OSError where the kernel does not let it.
    """
    rehearse()
    gather_code(rehearse)
    rehearse()
    fill_holes()
    gc.freeze()
    # Read once for all workers: what classes and modules it takes to make a program and its image is a lot to write on.
    templates: OrderedDict[bytes, Assignment] = OrderedDict()
    while True:
        digest, descriptors, _, _ = socket.recv_fds(orders, _DIGEST_BYTES, 2)
        if not digest:
            return
        channel, file = descriptors
        if digest not in templates:
            written = os.pread(file, os.fstat(file).st_size, 0)
            templates[digest] = pickle.loads(written)  # noqa: S301 - the supervisor's own words
            gc.freeze()
            if len(templates) > _MAX_TEMPLATES:
                templates.popitem(last=False)
        pid = fork_sibling()
        if pid == 0:
            live(WORKER_NAME, supervisor, partial(_work, channel, templates[digest]), keep=(channel,))
        close_all(descriptors)
        orders.send(b"%d" % pid)


def _work(channel_fd: int, template: Assignment) -> None:
    with socket.socket(fileno=channel_fd) as channel:
        run_assigned(channel, template)
