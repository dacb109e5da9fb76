import pytest

from ebpf_userspace_exporter.worker.decoders.errors import RowSkipped
from ebpf_userspace_exporter.worker.decoders.regexp import MAX_SUBJECT_CHARACTERS, Regexp


@pytest.mark.parametrize(
    ("patterns", "raw", "text"),
    [
        pytest.param(["^a+$"], b"aaa", "aaa", id="no group gives the whole value"),
        pytest.param(["b"], b"abc", "abc", id="a match anywhere, and still the whole value"),
        pytest.param(["^sd([a-z]+)"], b"sdb1", "b", id="one group gives the group"),
        pytest.param(["(a)(b)"], b"xaby", "xaby", id="two groups give the whole value"),
        pytest.param(["(?:a)(?P<name>b)"], b"ab", "b", id="a group that captures nothing does not count"),
        pytest.param(["a(b)?"], b"a", "", id="a group that took no part is empty"),
        pytest.param(["x(.)", "a(.)", "(a)"], b"ab", "b", id="the first pattern that matches wins"),
        pytest.param(["^(ü.)"], "üß!".encode(), "üß", id="characters, not bytes"),
        pytest.param(["(.*)"], b"\xff", "\\xff", id="invalid UTF-8 is matched as it is shown"),
    ],
)
def test_the_first_matching_pattern_picks(patterns: list[str], raw: bytes, text: str) -> None:
    assert Regexp(patterns)(raw) == text


@pytest.mark.parametrize("patterns", [["^b"], ["x", "y"], ["^$"], []])
def test_a_value_that_no_pattern_matches_is_skipped(patterns: list[str]) -> None:
    with pytest.raises(RowSkipped):
        Regexp(patterns)(b"abc")


def test_what_stands_behind_4_ki_characters_is_not_looked_at() -> None:
    inside = b"a" * (MAX_SUBJECT_CHARACTERS - 1) + b"b"

    assert Regexp(["b$"])(inside + b"ignored").endswith("ab")
    with pytest.raises(RowSkipped):
        Regexp(["b"])(b"a" + inside)


def test_a_pattern_that_would_hang_a_backtracking_matcher_returns() -> None:
    with pytest.raises(RowSkipped):
        Regexp([r"^(([a-z])+.)+[A-Z]([a-z])+$"])(b"a" * MAX_SUBJECT_CHARACTERS)
