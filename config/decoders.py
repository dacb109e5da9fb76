"""The decoders that a config may name, and how many bytes each can read."""

from collections.abc import Mapping

# None: any number of bytes, as text. The others read a number's or an address's bytes, so they come first in a chain.
# static_map and regexp at the start of a chain see the bytes as text, as in ebpf_exporter.
DECODER_SIZES: Mapping[str, frozenset[int] | None] = {
    "string": None,
    "uint": frozenset({1, 2, 4, 8}),
    "inet_ip": frozenset({4, 16}),
    "static_map": None,
    "regexp": None,
}
