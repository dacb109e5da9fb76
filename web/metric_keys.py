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
_CHECKED_NAMES = 1 << 10
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


class Key(NamedTuple):
    """Whose value it is; `upper_bound` is set where that is a histogram's own, not cumulative, bucket count.

    `metric` is the name as exposed. A counter's family is its name without `_total`, and both `x` and `x_total` may
    exist: the sample tells.
    """

    metric: str
    labels: Labels
    help: str
    upper_bound: float | None = None


class MetricFileError(Exception):
    """The file cannot be used; the message says what was found instead of what."""


def decode_key(raw: bytes, kind: Kind) -> Key:
    """Return what a key says: JSON, [family, sample, {label: text}, help]."""
    try:
        document: object = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise MetricFileError("corrupt: a key is not JSON in UTF-8") from error
    match document:
        case [str() as family, str() as sample, dict() as labels, str() as help_text]:
            pass
        case _:
            raise MetricFileError("corrupt: a key is not [family, sample, labels, help]")
    if not _are_metric_names(family, sample):
        raise MetricFileError("corrupt: a metric's name is not one")
    if not (_are_label_names(tuple(labels)) and set(map(type, labels.values())) <= {str}):
        raise MetricFileError("corrupt: a label is not one")
    # Only by an escape can JSON in UTF-8 name one.
    if b"\\u" in raw and not all(map(_is_unicode, (help_text, *labels.values()))):
        raise MetricFileError("corrupt: a text holds half of a surrogate pair")
    match kind:
        case Kind.COUNTER:
            if sample not in (family, f"{family}_total"):
                raise MetricFileError("corrupt: a counter's sample is not named as its family")
        case Kind.GAUGE:
            if sample != family:
                raise MetricFileError("corrupt: a gauge's sample is not named as its family")
        case Kind.HISTOGRAM:
            upper_bound = _upper_bound(family, sample, labels)
            return Key(family, _shared(labels), help_text, upper_bound)
        case _:
            assert_never(kind)
    return Key(sample, _shared(labels), help_text)


def _upper_bound(family: str, sample: str, labels: dict[str, str]) -> float | None:
    """Take `le` out of a bucket's labels and return it; None for the histogram's sum."""
    if sample == f"{family}_sum" and "le" not in labels:
        return None
    if sample != f"{family}_bucket" or "le" not in labels:
        raise MetricFileError("corrupt: a histogram's sample is neither a bucket nor its sum")
    try:
        upper_bound = float(labels.pop("le")) + 0.0  # minus zero is zero
    except ValueError:
        upper_bound = math.nan
    if math.isnan(upper_bound):
        raise MetricFileError("corrupt: a bucket's upper bound is not a number")
    return _number(upper_bound)


@lru_cache(_CHECKED_NAMES)
def _are_metric_names(*names: str) -> bool:
    return all(map(_METRIC_NAME.fullmatch, names))


@lru_cache(_CHECKED_NAMES)
def _are_label_names(names: tuple[str, ...]) -> bool:
    return all(map(_LABEL_NAME.fullmatch, names))


@lru_cache(_SHARED_BOUNDS)
def _number(number: float) -> float:
    return number


@lru_cache(_SHARED_PAIRS)
def _label(name: str, text: str) -> tuple[str, str]:
    return name, text


@lru_cache(_SHARED_LABELS)
def _labels(labels: Labels) -> Labels:
    return labels


def _shared(labels: dict[str, str]) -> Labels:
    """Return the labels; equal ones are one object: a hundred thousand series have few labels, each many times."""
    if sum(map(len, labels.values())) > _MAX_SHARED_CHARACTERS:
        return tuple(labels.items())  # what is remembered for sharing must not be large itself
    return _labels(tuple([_label(name, text) for name, text in labels.items()]))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
