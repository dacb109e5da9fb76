"""Takes events out of their buffers as fast as they can be counted, but never for long."""

import time
from collections import deque
from collections.abc import Callable, Iterable

from ebpf_userspace_exporter.worker.bpf.events import EventBuffer


class Intake:
    """Counts the events of all buffers of a target. In the worker."""

    def __init__(self, buffers: Iterable[tuple[str, EventBuffer]], take_event: Callable[[str, bytes], None]) -> None:
        self.is_behind = False
        """Whether there was no time for all of them: no buffer says a second time that there is something in it."""
        self._buffers = deque(buffers)
        self._take_event = take_event

    def take(self, seconds: float) -> None:
        """Count what there is, for little more than `seconds`; a buffer that never gets empty holds up no other."""
        deadline = time.monotonic() + seconds
        empty = 0
        while empty < len(self._buffers):
            table, buffer = self._buffers[0]
            self._buffers.rotate(-1)
            events = buffer.take()
            if events is None:
                empty += 1
                continue
            empty = 0
            for event in events:
                self._take_event(table, event)
            if time.monotonic() >= deadline:
                break
        self.is_behind = empty < len(self._buffers)
