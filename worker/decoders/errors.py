"""How a decoder says that it has no text for some bytes."""


class DecodeError(Exception):
    """Bytes that a decoder has no text for: it costs that key, which is counted and logged once."""

    def __init__(self, decoder: str, raw: bytes, expected: str) -> None:
        super().__init__(f"{decoder}: {_excerpt(raw)}, expected {expected}")
        self.decoder = decoder
        self.raw = raw
        self.expected = expected


class RowSkipped(Exception):  # noqa: N818 - the config asks for it: not an error, and not counted as one
    """A row that the config does not want."""


def _excerpt(raw: bytes) -> str:
    shown = raw[:32].hex(" ") or "nothing"
    return f"{len(raw)} bytes ({shown}{' ...' if len(raw) > 32 else ''})"
