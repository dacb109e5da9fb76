"""What turns the bytes of a map's key into the text of a label.

A decoder takes bytes and gives text. In a chain the next one gets that text as UTF-8, so that each can stand
anywhere and all have one type.
"""

from collections.abc import Callable, Mapping

from ebpf_userspace_exporter.config.model import Decoder, Label
from ebpf_userspace_exporter.worker.decoders.errors import DecodeError, RowSkipped
from ebpf_userspace_exporter.worker.decoders.inet_ip import decode_inet_ip
from ebpf_userspace_exporter.worker.decoders.regexp import Regexp
from ebpf_userspace_exporter.worker.decoders.static_map import StaticMap
from ebpf_userspace_exporter.worker.decoders.string import decode_string
from ebpf_userspace_exporter.worker.decoders.text import as_bytes, as_label
from ebpf_userspace_exporter.worker.decoders.uint import decode_uint

__all__ = ["DECODERS", "Decode", "DecodeError", "RowSkipped", "label_decoder"]

Decode = Callable[[bytes], str]

DECODERS: Mapping[str, Callable[[Decoder], Decode]] = {
    "inet_ip": lambda _: decode_inet_ip,
    "regexp": lambda decoder: Regexp(decoder.regexps),
    "static_map": lambda decoder: StaticMap(decoder.static_map, allow_unknown=decoder.allow_unknown),
    "string": lambda _: decode_string,
    "uint": lambda _: decode_uint,
}


def label_decoder(label: Label) -> Decode:
    """Return what gives the label's text for its bytes, by the label's decoders in their order.

    The text is always valid UTF-8 and has no control characters. It raises DecodeError for bytes without text and
    RowSkipped for unwanted ones.
    """
    steps = [DECODERS[decoder.name](decoder) for decoder in label.decoders]

    def decode(raw: bytes) -> str:
        for step in steps:
            raw = as_bytes(step(raw))
        return as_label(raw)

    return decode
