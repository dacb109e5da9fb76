"""Where each label's bytes are in a map's key, or in an event."""

import struct
import sys
from collections.abc import Sequence

from ebpf_userspace_exporter.config.model import Label
from ebpf_userspace_exporter.worker.decoders import Decode, DecodeError, label_decoder
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings

_CPU = struct.Struct("=I")


class KeyLayout:
    """Cuts a raw key into its labels' texts. A last label `cpu` is none of the key's: its bytes are put behind it."""

    def __init__(self, labels: Sequence[Label], surroundings: Surroundings) -> None:
        self.is_split = bool(labels) and labels[-1].is_cpu
        """Whether the CPU is a label."""
        self._parts: list[tuple[slice, Decode]] = []
        self.key_bytes = 0
        """How many bytes the labels have, without the CPU's; 0 without labels of the key: any key will do."""
        for label in labels[:-1] if self.is_split else labels:
            end = self.key_bytes + label.size
            self._parts.append((slice(self.key_bytes, end), label_decoder(label, surroundings)))
            self.key_bytes = end + label.padding
        if self.is_split:
            self._parts.append((slice(-_CPU.size, None), _decode_cpu))

    def texts(self, raw: bytes) -> list[str]:
        """Return the labels' texts; DecodeError and RowSkipped as the decoders say, or if the key has another size."""
        if self.key_bytes and len(raw) != self.key_bytes + _CPU.size * self.is_split:
            raise DecodeError("key", raw, f"{self.key_bytes} bytes")
        return [decode(raw[part]) for part, decode in self._parts]


def cpu_suffix(cpu: int) -> bytes:
    """Return what is put behind a key for the share of one CPU."""
    return _CPU.pack(cpu)


def _decode_cpu(raw: bytes) -> str:
    return str(int.from_bytes(raw, sys.byteorder))
