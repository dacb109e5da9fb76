"""The maps of one target, by the names that the code gives them."""

import contextlib
import sys
from collections.abc import Collection, Sequence

from ebpf_userspace_exporter.worker.bpf.events import EventBuffer, open_event_buffers
from ebpf_userspace_exporter.worker.bpf.maps import EVENT_KINDS, Rows
from ebpf_userspace_exporter.worker.bpf.reading import MapReader
from ebpf_userspace_exporter.worker.bpf.stacks import read_stack
from ebpf_userspace_exporter.worker.bpf.usage import MapUsage, map_usage
from ebpf_userspace_exporter.worker.build.lost_events import is_lost_table, lost_table
from ebpf_userspace_exporter.worker.image import MapShape


class Tables:
    """Reads maps of these shapes through these descriptors, which stay the caller's. In the worker.

    `wanted` are the tables that metrics name; an event table that is none of them is left to fill up.
    """

    def __init__(self, shapes: Sequence[MapShape], descriptors: Sequence[int], wanted: Collection[str]) -> None:
        self._maps = {shape.name: (map_fd, shape) for shape, map_fd in zip(shapes, descriptors, strict=True)}
        self._readers: dict[str, MapReader] = {}
        self._entries: dict[str, int] = {}
        self._usage: dict[str, MapUsage] = {}
        self.event_tables = frozenset(
            name for name, (_, shape) in self._maps.items() if shape.kind in EVENT_KINDS and name in wanted
        )
        """The tables of events."""

    def read(self, table: str) -> Rows:
        """Return all rows of a table, as `MapReader.read` does."""
        rows = self._reader(table).read()
        self._entries[table] = len(rows.keys)
        return rows

    def read_stack(self, table: str, stack_id: int) -> tuple[int, ...]:
        """Return the addresses of a stack in a BPF_STACK_TRACE; KeyError without such a stack, or table."""
        map_fd, shape = self._maps[table]
        return read_stack(map_fd, shape.leaf_bytes, stack_id)

    def open_event_buffers(self) -> list[tuple[str, EventBuffer]]:
        """Return all buffers of the event tables, each with its table's name; AttachError."""
        with contextlib.ExitStack() as undo:
            buffers = []
            for table in sorted(self.event_tables):
                for buffer in open_event_buffers(*self._maps[table]):
                    undo.callback(buffer.close)
                    buffers.append((table, buffer))
            undo.pop_all()
        return buffers

    def lost_events(self) -> dict[str, int]:
        """Return how many events each event table had no place for since it was made."""
        return {table: self._lost(table) for table in self.event_tables if lost_table(table) in self._maps}

    def usage(self) -> dict[str, MapUsage]:
        """Return the usage of the program's own maps; a table that was just read is not counted again."""
        entries, self._entries = self._entries, {}
        for name, (map_fd, shape) in self._maps.items():
            if not is_lost_table(name):
                self._usage[name] = map_usage(map_fd, shape, entries.get(name), self._usage.get(name))
        return dict(self._usage)

    def _reader(self, table: str) -> MapReader:
        reader = self._readers.get(table)
        if reader is None:
            reader = self._readers[table] = MapReader(*self._maps[table])
        return reader

    def _lost(self, table: str) -> int:
        return int.from_bytes(self._reader(lost_table(table)).read().leaves, sys.byteorder)
