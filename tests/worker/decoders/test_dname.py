import pytest

from ebpf_userspace_exporter.worker.decoders.dname import decode_dname
from ebpf_userspace_exporter.worker.decoders.errors import DecodeError

LABEL = b"\x3f" + b"a" * 63
LONGEST = LABEL * 3 + b"\x3d" + b"a" * 61 + b"\0"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(b"\3com\0", "com", id="one label"),
        pytest.param(b"\3www\7example\3org\0", "www.example.org", id="three labels"),
        pytest.param(b"\0", ".", id="the root"),
        pytest.param(b"\3com\0\0\0\0\0", "com", id="padded with NULs"),
        pytest.param(b"\3com\0\0\1\0\1", "com", id="what follows the name in its message is not shown"),
        pytest.param(b"\7eXamPle\0", "eXamPle", id="letters keep their case"),
        pytest.param(b"\4_srv\2a-\0", "_srv.a-", id="what is in names but not in hosts' names"),
        pytest.param(b"\3a.b\1c\0", r"a\.b.c", id="a dot in a label"),
        pytest.param(b"\3a\\b\0", r"a\\b", id="a backslash"),
        pytest.param(b"\3a\0b\0", r"a\000b", id="a NUL in a label"),
        pytest.param(b"\4a \x7f\xff\0", r"a\032\127\255", id="what is not printable"),
        pytest.param(LONGEST, ".".join(["a" * 63] * 3 + ["a" * 61]), id="the longest name"),
    ],
)
def test_labels_have_dots_between_them(raw: bytes, text: str) -> None:
    assert decode_dname(raw) == text


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="no bytes"),
        pytest.param(b"\3", id="cut after a length"),
        pytest.param(b"\3ww", id="cut within a label"),
        pytest.param(b"\3www", id="cut after a label"),
        pytest.param(b"\3www\7exam", id="cut within the second label"),
        pytest.param(LABEL * 3 + b"\x3e" + b"a" * 62 + b"\0", id="longer than names may be"),
    ],
)
def test_a_name_without_end_is_an_error(raw: bytes) -> None:
    with pytest.raises(DecodeError, match=r"dname: .*expected a name that ends, within 255 bytes"):
        decode_dname(raw)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xc0\x0c", id="a pointer alone"),
        pytest.param(b"\3www\xc0\x0c", id="a pointer after a label"),
        pytest.param(b"\x40" + b"a" * 64 + b"\0", id="64, which is no length"),
        pytest.param(b"\x80\0", id="a reserved kind of label"),
    ],
)
def test_a_compressed_name_is_an_error(raw: bytes) -> None:
    with pytest.raises(DecodeError, match=r"dname: .*expected a name without pointers"):
        decode_dname(raw)
