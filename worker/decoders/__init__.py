"""What turns the bytes of a map's key into the text of a label.

A decoder takes bytes and gives text. In a chain the next one gets that text as UTF-8, so that each can stand
anywhere and all have one type.
"""

from collections.abc import Callable, Mapping

from ebpf_userspace_exporter.config.model import Decoder, Label
from ebpf_userspace_exporter.worker.decoders.cgroup import Cgroup
from ebpf_userspace_exporter.worker.decoders.cgroups import Cgroups
from ebpf_userspace_exporter.worker.decoders.dname import decode_dname
from ebpf_userspace_exporter.worker.decoders.errno import decode_errno
from ebpf_userspace_exporter.worker.decoders.errors import DecodeError, RowSkipped
from ebpf_userspace_exporter.worker.decoders.hex import decode_hex
from ebpf_userspace_exporter.worker.decoders.ifname import Ifname
from ebpf_userspace_exporter.worker.decoders.inet_ip import decode_inet_ip
from ebpf_userspace_exporter.worker.decoders.int import decode_int
from ebpf_userspace_exporter.worker.decoders.interfaces import Interfaces
from ebpf_userspace_exporter.worker.decoders.majorminor import decode_majorminor
from ebpf_userspace_exporter.worker.decoders.regexp import Regexp
from ebpf_userspace_exporter.worker.decoders.signal import decode_signal
from ebpf_userspace_exporter.worker.decoders.static_map import StaticMap
from ebpf_userspace_exporter.worker.decoders.string import decode_string
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.decoders.syscall import Syscall
from ebpf_userspace_exporter.worker.decoders.syscall_names import native_syscall_names
from ebpf_userspace_exporter.worker.decoders.text import as_bytes, as_label
from ebpf_userspace_exporter.worker.decoders.uint import decode_uint
from ebpf_userspace_exporter.worker.decoders.ustack import Ustack
from ebpf_userspace_exporter.worker.decoders.usym import Usym

__all__ = ["DECODERS", "Decode", "DecodeError", "RowSkipped", "Surroundings", "label_decoder"]

Decode = Callable[[bytes], str]

DECODERS: Mapping[str, Callable[[Decoder, Surroundings], Decode]] = {
    "cgroup": lambda _decoder, _surroundings: Cgroup(Cgroups().path),
    "dname": lambda _decoder, _surroundings: decode_dname,
    "errno": lambda _decoder, _surroundings: decode_errno,
    "hex": lambda _decoder, _surroundings: decode_hex,
    "ifname": lambda _decoder, surroundings: Ifname(Interfaces(surroundings.pid).name),
    "inet_ip": lambda _decoder, _surroundings: decode_inet_ip,
    "int": lambda _decoder, _surroundings: decode_int,
    "majorminor": lambda _decoder, _surroundings: decode_majorminor,
    "regexp": lambda decoder, _surroundings: Regexp(decoder.regexps),
    "signal": lambda _decoder, _surroundings: decode_signal,
    "static_map": lambda decoder, _surroundings: StaticMap(decoder.static_map, allow_unknown=decoder.allow_unknown),
    "string": lambda _decoder, _surroundings: decode_string,
    "syscall": lambda _decoder, _surroundings: Syscall(native_syscall_names()),
    "uint": lambda _decoder, _surroundings: decode_uint,
    "ustack": lambda decoder, surroundings: Ustack(surroundings, decoder.stack_table),
    "usym": lambda _decoder, surroundings: Usym(surroundings),
}


def label_decoder(label: Label, surroundings: Surroundings) -> Decode:
    """Return what gives the label's text for its bytes, by the label's decoders in their order.

    The text is always valid UTF-8 and has no control characters. It raises DecodeError for bytes without text and
    RowSkipped for unwanted ones.
    """
    steps = [DECODERS[decoder.name](decoder, surroundings) for decoder in label.decoders]

    def decode(raw: bytes) -> str:
        for step in steps:
            raw = as_bytes(step(raw))
        return as_label(raw)

    return decode
