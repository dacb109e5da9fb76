"""Bytes as text that is valid UTF-8 whatever the bytes."""

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)}


def as_text(raw: bytes) -> str:
    r"""Return the bytes as UTF-8, with `\xNN` for each byte that is not.

    Not U+FFFD, which would make one series of all values that differ in invalid bytes only.
    """
    return raw.decode("utf-8", "backslashreplace")


def as_label(raw: bytes) -> str:
    r"""Return the bytes as the text of a label: as `as_text`, with `\xNN` for control characters too.

    Prometheus stores a NUL, and then neither shows it nor lets anybody type it. Not done between the decoders: a
    static_map or regexp that comes first may be written for the very bytes.
    """
    return as_text(raw).translate(_CONTROLS)


def as_bytes(text: str) -> bytes:
    r"""Return the text as UTF-8, with `\uNNNN` for a lone surrogate: YAML can spell one, UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace")
