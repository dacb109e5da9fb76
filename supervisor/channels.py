"""The supervisor's end of the sockets to its workers: nothing here waits, and what is received fits."""

import select
import socket

from ebpf_userspace_exporter.supervisor.descriptors import close_all, few_left
from ebpf_userspace_exporter.supervisor.entry import Worker
from ebpf_userspace_exporter.worker.messages import Message, MessageError, receive
from ebpf_userspace_exporter.worker.reasons import Reason


def hear(channel: socket.socket) -> tuple[Message, list[int]] | None:
    """Return what `receive` does; MessageError also for descriptors that would be the last to be had."""
    received = receive(channel)
    if received is not None and any(few_left(descriptor) for descriptor in received[1]):
        close_all(received[1])
        raise MessageError("too few descriptors left for its maps and links: raise LimitNOFILE", Reason.DESCRIPTORS)
    return received


def tell(worker: Worker, words: bytes) -> bool:
    """Send words; False if the worker is dead or hangs, which its exit or a deadline will say."""
    if worker.channel is None:
        return False
    try:
        worker.channel.send(words)
    except OSError:
        return False
    return True


def is_leaving(worker: Worker) -> bool:
    """Whether its process has exited, or is about to: then its end of the channel is closed."""
    if worker.is_reaped or worker.channel is None:
        return True
    poll = select.poll()
    poll.register(worker.channel, 0)
    return bool(poll.poll(0))
