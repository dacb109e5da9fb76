"""What a histogram must hold: buckets whose upper bounds rise."""

import itertools
import math

from ebpf_userspace_exporter.config.buckets import MAX_BUCKETS, upper_bounds
from ebpf_userspace_exporter.config.errors import KeyPath
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.model import BucketType, Histogram

_DYNAMIC_FIELDS = ("bucket_min", "bucket_max")


def check_histogram(histogram: Histogram, path: KeyPath, findings: Findings) -> None:
    """Record what is wrong with a histogram's buckets."""
    relied = [(*path, name) for name in ("bucket_type", "bucket_multiplier", "bucket_keys", *_DYNAMIC_FIELDS)]
    if not histogram.labels:
        findings.problem((*path, "labels"), "is empty; expected a list of labels, the last of them the bucket")
    if histogram.bucket_multiplier < 0:
        message = f"expected a number above 0, got {histogram.bucket_multiplier:g}"
        findings.problem((*path, "bucket_multiplier"), message)
    if histogram.bucket_type is BucketType.FIXED:
        count, where = len(histogram.bucket_keys), (*path, "bucket_keys")
        if not count:
            findings.problem(where, "missing; a histogram of type fixed needs its keys", *relied)
        for unused in _DYNAMIC_FIELDS:
            _warn_of_unused(histogram, unused, path, findings)
    else:
        count, where = histogram.bucket_max - histogram.bucket_min + 1, (*path, "bucket_max")
        if count <= 1:
            is_given = "bucket_max" in histogram.model_fields_set
            expected = f"expected more than bucket_min, which is {histogram.bucket_min}"
            findings.problem(
                where, f"{expected}, got {histogram.bucket_max}" if is_given else f"missing; {expected}", *relied
            )
        _warn_of_unused(histogram, "bucket_keys", path, findings)
    if count > MAX_BUCKETS:
        findings.problem(where, f"makes {count} buckets; expected at most {MAX_BUCKETS}", *relied)
    elif count >= 1 and histogram.bucket_multiplier > 0:
        _check_bounds(histogram, where, relied, findings)


def _check_bounds(histogram: Histogram, where: KeyPath, relied: list[KeyPath], findings: Findings) -> None:
    try:
        bounds = upper_bounds(histogram)
    except OverflowError:
        bounds = (math.inf,)
    if not all(map(math.isfinite, bounds)):
        findings.problem(where, "a bucket's upper bound is too large for a number of 64 bits", *relied)
    elif any(lower >= upper for lower, upper in itertools.pairwise(bounds)):
        findings.problem(where, "the buckets' upper bounds do not rise; expected each above the one before", *relied)
    elif any(key < 0 or not key.is_integer() for key in histogram.bucket_keys) or (
        histogram.bucket_type is not BucketType.FIXED and histogram.bucket_min < 0
    ):
        findings.warning(where, "some buckets stay empty: a key is a whole number from 0", *relied)


def _warn_of_unused(histogram: Histogram, name: str, path: KeyPath, findings: Findings) -> None:
    if name in histogram.model_fields_set:
        findings.warning((*path, name), f"is not used by the bucket_type {histogram.bucket_type}")
