"""A key says what JSON makes of it, by whichever way it is read."""

import json
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpf_userspace_exporter.web.metric_keys import Kind, Labels, MetricFileError, decode_key

BOUNDED = settings(deadline=None, max_examples=300, database=None, derandomize="CI" in os.environ)
TEXTS = st.one_of(st.sampled_from(["", "1", "fn", '"', "\\", '\\"', ", ", '": "', "]", "\n", "ü"]), st.text(max_size=6))
LABELS = st.dictionaries(st.sampled_from(["a", "b", "le"]), TEXTS, max_size=3)
SPELLINGS = st.fixed_dictionaries(
    {"ensure_ascii": st.booleans(), "separators": st.sampled_from([(", ", ": "), (",", ":"), (" ,\n", "\t: ")])}
)
NOISE = st.sampled_from(
    ['"', '""', "\\", "\\u", ",", ":", "{", "}", "[", "]", " ", "\n", "\0", "1", "a", '"a":"1",', ""]
)
WHOLE = ['["c", "c_total", {"a": "1", "b": "2"}, "Help."]', '["c", "c", {"a": "\\u00fc", "b": ""}, "Help."]']


def said(key: str) -> tuple[str, Labels, str] | None:
    """Return a counter's sample, labels and help as simply as possible, or None where the key is none."""
    try:
        family, sample, pairs, help_text = json.loads(key, object_pairs_hook=tuple)
        assert isinstance(pairs, tuple)
        labels = dict(pairs)
        assert len(labels) == len(pairs)
        assert {*map(type, (family, sample, help_text, *labels.values()))} == {str}
        assert sample in (family, f"{family}_total")
        assert re.fullmatch("[a-z_:][a-z0-9_:]*", family, re.IGNORECASE | re.ASCII)
        assert all(re.fullmatch("(?!__)[a-z_][a-z0-9_]*", name, re.IGNORECASE | re.ASCII) for name in labels)
        "".join((help_text, *labels.values())).encode()
    except (ValueError, AssertionError, TypeError):
        return None
    return sample, tuple(labels.items()), help_text


def decoded(key: str, kind: Kind = Kind.COUNTER) -> tuple[str, Labels, str] | None:
    try:
        frame, labels, _ = decode_key(key.encode(), kind)
    except MetricFileError:
        return None
    return frame.metric, labels, frame.help


@given(labels=LABELS, help_text=TEXTS, spelling=SPELLINGS)
@BOUNDED
def test_a_key_in_any_spelling_says_what_was_written(
    labels: dict[str, str], help_text: str, spelling: dict[str, bool]
) -> None:
    key = json.dumps(["c", "c_total", labels, help_text], **spelling)  # type: ignore[arg-type]  # a spelling's own types

    assert decoded(key) == ("c_total", (*labels.items(),), help_text)


@given(
    whole=st.sampled_from(WHOLE),
    place=st.integers(0, len(WHOLE[0])),
    length=st.integers(0, 4),
    noise=st.lists(NOISE, max_size=3).map("".join),
)
@BOUNDED
def test_a_damaged_key_is_refused_or_says_what_json_does(whole: str, place: int, length: int, noise: str) -> None:
    key = whole[:place] + noise + whole[place + length :]

    assert decoded(key) == said(key)


@pytest.mark.parametrize("place", range(3))
def test_a_bucket_has_its_bound_wherever_that_stands(place: int) -> None:
    labels = [("a", "1"), ("b", "x" * 300)]
    labels.insert(place, ("le", "-0.0"))

    frame, others, bound = decode_key(json.dumps(["h", "h_bucket", dict(labels), ""]).encode(), Kind.HISTOGRAM)

    assert (frame.metric, others, str(bound)) == ("h", (("a", "1"), ("b", "x" * 300)), "0.0")


def test_the_same_key_is_another_metric_in_a_file_of_another_kind() -> None:
    key = '["h", "h_sum", {}, ""]'

    assert [decoded(key, kind) for kind in Kind] == [None, None, ("h", (), "")]


@pytest.mark.parametrize("labels", ['{"a": "1", "a": "2"}', '{"a": "1", "a": "\\n"}'], ids=["plain", "with an escape"])
def test_a_label_that_is_there_twice_is_an_error(labels: str) -> None:
    with pytest.raises(MetricFileError, match="a label twice"):
        decode_key(f'["c", "c", {labels}, ""]'.encode(), Kind.COUNTER)
