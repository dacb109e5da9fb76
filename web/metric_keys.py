"""What the key of an entry says; nothing in a file is trusted."""

import json
import math
import re
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, assert_never

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
# Bounds of what is remembered: names are few, texts are whatever a target chooses.
_SHARED_FRAMES = 1 << 10
_SHARED_BOUNDS = 1 << 10
_SHARED_PAIRS = 1 << 13
_SHARED_LABELS = 1 << 12
_MAX_SHARED_CHARACTERS = 256

Labels = tuple[tuple[str, str], ...]


class Kind(Enum):
    """What a metric is; a file holds metrics of one kind, the first word of its name."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"

    __hash__ = object.__hash__  # it is asked for with each key; that of enums is Python


class Frame(NamedTuple):
    """What a key says but for the texts of its labels: a hundred thousand keys have few.

    `metric` is the name as exposed. A counter's family is its name without `_total`, and both `x` and `x_total` may
    exist: the sample tells.
    """

    metric: str
    help: str
    label_names: tuple[str, ...]
    bound_place: int | None
    """Which of the labels is a bucket's upper bound; it is not among the names."""


class Key(NamedTuple):
    """Whose value it is; `upper_bound` is set where that is a histogram's own, not cumulative, bucket count."""

    frame: Frame
    labels: Labels
    upper_bound: float | None


class MetricFileError(Exception):
    """The file cannot be used; the message says what was found instead of what."""


def decode_key(raw: bytes, kind: Kind) -> Key:
    """Return what a key says: JSON, [family, sample, {label: text}, help]."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MetricFileError("corrupt: a key is not UTF-8") from error
    # Without escapes each quote begins or ends a string, which is all there is to find out about most keys.
    is_plain = "\\" not in text and text.isprintable()
    emptied, texts = _without_texts(text) if is_plain else _parsed_without_texts(text)
    frame = _frame(emptied, kind)
    upper_bound = None if frame.bound_place is None else _upper_bound(texts.pop(frame.bound_place))
    if len(text) - len(emptied) > _MAX_SHARED_CHARACTERS:
        # What is remembered for sharing must not be large itself.
        labels: Labels = tuple(zip(frame.label_names, texts, strict=True))
    else:
        labels = _shared(tuple(map(_label, frame.label_names, texts)))
    return Key(frame, labels, upper_bound)


def _without_texts(text: str) -> tuple[str, list[str]]:
    """Return the key with every label's text empty, and the texts: its strings are family, sample, name, text, …"""
    parts = text.split('"')
    texts = parts[7::4]
    parts[7::4] = [""] * len(texts)
    return '"'.join(parts), texts


def _parsed_without_texts(text: str) -> tuple[str, list[str]]:
    """Return the same of a key that has escapes."""
    family, sample, labels, help_text = _parsed(text)
    if not all(map(_is_unicode, labels.values())):
        raise MetricFileError("corrupt: a text holds half of a surrogate pair")
    return json.dumps([family, sample, dict.fromkeys(labels, ""), help_text]), [*labels.values()]


@lru_cache(_SHARED_FRAMES)
def _frame(emptied: str, kind: Kind) -> Frame:
    """Return what a key without its labels' texts says."""
    family, sample, labels, help_text = _parsed(emptied)
    if not all(map(_METRIC_NAME.fullmatch, (family, sample))):
        raise MetricFileError("corrupt: a metric's name is not one")
    if not all(map(_LABEL_NAME.fullmatch, labels)):
        raise MetricFileError("corrupt: a label is not one")
    if not _is_unicode(help_text):
        raise MetricFileError("corrupt: a text holds half of a surrogate pair")
    names = [*labels]
    match kind:
        case Kind.COUNTER:
            if sample not in (family, f"{family}_total"):
                raise MetricFileError("corrupt: a counter's sample is not named as its family")
        case Kind.GAUGE:
            if sample != family:
                raise MetricFileError("corrupt: a gauge's sample is not named as its family")
        case Kind.HISTOGRAM:
            if sample == f"{family}_bucket" and "le" in names:
                place = names.index("le")
                return Frame(family, help_text, (*names[:place], *names[place + 1 :]), place)
            if sample != f"{family}_sum" or "le" in names:
                raise MetricFileError("corrupt: a histogram's sample is neither a bucket nor its sum")
            sample = family
        case _:
            assert_never(kind)
    return Frame(sample, help_text, (*names,), None)


def _parsed(text: str) -> tuple[str, str, dict[str, str], str]:
    try:
        document: object = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise MetricFileError("corrupt: a key is not JSON") from error
    match document:
        case [str() as family, str() as sample, dict() as labels, str() as help_text]:
            if set(map(type, labels.values())) <= {str}:
                return family, sample, labels, help_text
    raise MetricFileError("corrupt: a key is not [family, sample, {label: text}, help]")


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(labels := dict(pairs)) < len(pairs):
        raise MetricFileError("corrupt: a key has a label twice")
    return labels


@lru_cache(_SHARED_BOUNDS)
def _upper_bound(text: str) -> float:
    try:
        upper_bound = float(text) + 0.0  # minus zero is zero
    except ValueError:
        upper_bound = math.nan
    if math.isnan(upper_bound):
        raise MetricFileError("corrupt: a bucket's upper bound is not a number")
    return upper_bound


@lru_cache(_SHARED_PAIRS)
def _label(name: str, text: str) -> tuple[str, str]:
    return name, text


@lru_cache(_SHARED_LABELS)
def _shared(labels: Labels) -> Labels:
    """Return equal labels: a hundred thousand series have few, each many times."""
    return labels


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
