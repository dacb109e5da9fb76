"""A C string."""

from ebpf_userspace_exporter.worker.decoders.text import as_text


def decode_string(raw: bytes) -> str:
    """Return what stands before the first NUL, or all of it if there is none."""
    return as_text(raw.partition(b"\0")[0])
