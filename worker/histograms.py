"""A histogram's buckets as its metric file has them: the text of `le` for each key of the map."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ebpf_userspace_exporter.config.buckets import bucket_keys, upper_bounds
from ebpf_userspace_exporter.config.model import Histogram


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram's buckets: `bounds` is the text of `le` by map key; the sum is under `sum_key`.

    `+Inf` has no map key: it is not in `bounds`, and counts nothing of its own.
    """

    bounds: Mapping[float, str]
    sum_key: float


def buckets_of(histogram: Histogram) -> Buckets:
    """Return the histogram's buckets; the key after the last one's is the sum's."""
    keys = bucket_keys(histogram)
    texts = map(bound_text, upper_bounds(histogram))
    return Buckets(bounds=dict(zip(keys, texts, strict=True)), sum_key=keys[-1] + 1)


def bound_text(bound: float) -> str:
    """Return a bucket's upper bound as Prometheus writes it, with an exponent from a million on.

    The format is that of Go's strconv.FormatFloat(bound, 'g', -1, 64) as far as prometheus_client follows it: its
    collector writes every `le` that it reads anew, and the two must not differ.
    """
    if bound == math.inf:
        return "+Inf"
    text = repr(bound)
    whole, _, fraction = text.partition(".")
    if bound <= 0 or not fraction or len(whole) <= 6:
        return text
    mantissa = f"{whole[0]}.{whole[1:]}{fraction}".rstrip("0").rstrip(".")
    return f"{mantissa}e+{len(whole) - 1:02d}"
