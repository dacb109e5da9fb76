import pytest

from ebpf_userspace_exporter.worker.decoders.hex import decode_hex


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(b"\x0a", "0a", id="a leading zero"),
        pytest.param(b"\xde\xad\xbe\xef", "deadbeef", id="lower case, first byte first"),
        pytest.param(b"\0\0\0", "000000", id="zeros"),
        pytest.param(b"", "", id="no bytes"),
    ],
)
def test_each_byte_is_two_digits(raw: bytes, text: str) -> None:
    assert decode_hex(raw) == text


def test_every_byte_stays_apart() -> None:
    assert bytes.fromhex(decode_hex(bytes(range(256)))) == bytes(range(256))
