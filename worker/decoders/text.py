"""Bytes as text that is valid UTF-8 whatever the bytes."""


def as_text(raw: bytes) -> str:
    r"""Return the bytes as UTF-8, with `\xNN` for each byte that is not.

    Not U+FFFD, which would make one series of all values that differ in invalid bytes only.
    """
    return raw.decode("utf-8", "backslashreplace")


def as_bytes(text: str) -> bytes:
    r"""Return the text as UTF-8, with `\uNNNN` for a lone surrogate: YAML can spell one, UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace")
