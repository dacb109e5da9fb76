import pytest

from ebpf_userspace_exporter.worker.decoders.static_map import StaticMap

NAMES = {"1": "read", "0x1": "sixteen", "": "nothing", "on": "yes"}


@pytest.mark.parametrize(("raw", "name"), [(key.encode(), name) for key, name in NAMES.items()])
@pytest.mark.parametrize("allow_unknown", [False, True])
def test_a_known_value_gets_its_name(raw: bytes, name: str, allow_unknown: bool) -> None:
    assert StaticMap(NAMES, allow_unknown=allow_unknown)(raw) == name


@pytest.mark.parametrize("raw", [b"2", b"01", b"ON"])
def test_an_unknown_value_says_that_it_is_unknown(raw: bytes) -> None:
    assert StaticMap(NAMES, allow_unknown=False)(raw) == f"unknown:{raw.decode()}"


def test_an_unknown_value_passes_where_that_is_allowed() -> None:
    assert StaticMap(NAMES, allow_unknown=True)(b"2") == "2"


def test_an_unknown_value_that_is_no_utf8_is_valid_text() -> None:
    assert StaticMap(NAMES, allow_unknown=False)(b"\xff") == "unknown:\\xff"
