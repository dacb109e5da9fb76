"""From a histogram's configuration to the upper bounds of its buckets."""

import math

from ebpf_userspace_exporter.config.model import BucketType, Histogram

MAX_BUCKETS = 1024


def bucket_keys(histogram: Histogram) -> tuple[float, ...]:
    """Return the keys that are buckets, in ascending order; the key after the last holds the sum."""
    if histogram.bucket_type is BucketType.FIXED:
        return histogram.bucket_keys
    return tuple(float(key) for key in range(histogram.bucket_min, histogram.bucket_max + 1))


def upper_bounds(histogram: Histogram) -> tuple[float, ...]:
    """Return each bucket's upper bound, `le` without +Inf; OverflowError where a float cannot hold one.

    exp2: 2^key; exp2zero: 0 for key 0, else 2^(key-1); linear and fixed: the key; each times the multiplier.
    """
    return tuple(
        _upper_bound(histogram.bucket_type, key) * histogram.bucket_multiplier for key in bucket_keys(histogram)
    )


def _upper_bound(bucket_type: BucketType, key: float) -> float:
    match bucket_type:
        case BucketType.EXP2:
            return math.ldexp(1.0, int(key))
        case BucketType.EXP2ZERO:
            return math.ldexp(1.0, int(key) - 1) if key else 0.0
        case BucketType.LINEAR | BucketType.FIXED:
            return key
