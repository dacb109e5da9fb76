"""A domain name as it is in a DNS message (RFC 1035, 3.1)."""

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError

_MAX_NAME_BYTES = 255
_MAX_LABEL_BYTES = 63
_ESCAPES = {code: f"\\{code:03}" for code in range(256) if not ord("!") <= code <= ord("~")}
_ESCAPES |= {ord(letter): f"\\{letter}" for letter in ".\\"}


def decode_dname(raw: bytes) -> str:
    r"""Return the labels that stand before the root's zero byte, with dots between them; `.` for the root alone.

    What follows the zero byte is ignored. A dot in a label is `\.`, what is not printable ASCII `\DDD`, as in zone
    files (RFC 1035, 5.1); letters keep their case. DecodeError for a name without end, which was cut, and for one with
    a pointer into the message that it was taken from.
    """
    labels: list[str] = []
    at = 0
    while at < min(len(raw), _MAX_NAME_BYTES):
        length = raw[at]
        if not length:
            return ".".join(labels) or "."
        if length > _MAX_LABEL_BYTES:
            raise DecodeError("dname", raw, "a name without pointers")
        labels.append(raw[at + 1 : at + 1 + length].decode("latin-1").translate(_ESCAPES))
        at += 1 + length
    raise DecodeError("dname", raw, f"a name that ends, within {_MAX_NAME_BYTES} bytes")
