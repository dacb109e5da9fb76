"""Bytes as they are: hashes, identifiers, hardware addresses."""


def decode_hex(raw: bytes) -> str:
    """Return two lower-case digits for each byte, in the order of the bytes and with nothing between them."""
    return raw.hex()
