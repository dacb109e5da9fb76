import pytest

from ebpf_userspace_exporter.worker.decoders.string import decode_string


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(b"bash\0\0\0\0", "bash", id="padded with NULs"),
        pytest.param(b"bash\0rest of an old key", "bash", id="what follows the NUL is not shown"),
        pytest.param(b"gunicorn", "gunicorn", id="no NUL at all"),
        pytest.param(b"\0abc", "", id="starts with NUL"),
        pytest.param(b"", "", id="no bytes"),
        pytest.param("grüße €".encode(), "grüße €", id="UTF-8"),
        pytest.param(b"a\xffb", "a\\xffb", id="a byte that is no UTF-8"),
        pytest.param("€".encode()[:2], "\\xe2\\x82", id="cut in the middle of a character"),
        pytest.param(b"\xed\xa0\x80", "\\xed\\xa0\\x80", id="a surrogate"),
    ],
)
def test_a_string_ends_at_the_first_nul_and_is_valid_text(raw: bytes, text: str) -> None:
    assert decode_string(raw) == text


def test_values_that_differ_in_invalid_bytes_only_stay_different() -> None:
    assert len({decode_string(b"x" + bytes([byte])) for byte in range(1, 256)}) == 255
