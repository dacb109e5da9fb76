import math

import pytest
from prometheus_client.utils import floatToGoString

from ebpf_userspace_exporter.config.model import BucketType, Decoder, Histogram, Label
from ebpf_userspace_exporter.worker.histograms import bound_text, buckets_of


def histogram(
    bucket_type: BucketType, *, first: int = 0, last: int = 0, multiplier: float = 1.0, keys: tuple[float, ...] = ()
) -> Histogram:
    return Histogram(
        name="size_bytes",
        table="sizes",
        labels=(Label(name="bucket", size=8, decoders=(Decoder(name="uint"),)),),
        bucket_type=bucket_type,
        bucket_min=first,
        bucket_max=last,
        bucket_multiplier=multiplier,
        bucket_keys=keys,
    )


@pytest.mark.parametrize(
    ("configured", "bounds", "sum_key"),
    [
        pytest.param(
            histogram(BucketType.EXP2, last=3), {0: "1.0", 1: "2.0", 2: "4.0", 3: "8.0"}, 4, id="exp2 is 2^key"
        ),
        pytest.param(
            histogram(BucketType.EXP2ZERO, last=3),
            {0: "0.0", 1: "1.0", 2: "2.0", 3: "4.0"},
            4,
            id="exp2zero is 0 for the first key, then 2^(key-1)",
        ),
        pytest.param(
            histogram(BucketType.LINEAR, first=2, last=4, multiplier=50),
            {2: "100.0", 3: "150.0", 4: "200.0"},
            5,
            id="linear is key times multiplier, from bucket_min on",
        ),
        pytest.param(
            histogram(BucketType.FIXED, keys=(1, 10, 100), multiplier=0.001),
            {1: "0.001", 10: "0.01", 100: "0.1"},
            101,
            id="fixed is the key times the multiplier",
        ),
        pytest.param(
            histogram(BucketType.EXP2, first=20, last=20, multiplier=1e-06),
            {20: "1.048576"},
            21,
            id="a multiplier scales",
        ),
    ],
)
def test_keys_become_upper_bounds(configured: Histogram, bounds: dict[float, str], sum_key: float) -> None:
    buckets = buckets_of(configured)

    assert (buckets.bounds, buckets.sum_key) == (bounds, sum_key)


def test_bounds_are_written_as_prometheus_client_writes_them() -> None:
    bounds = [0.0, 0.1, 0.5, 1.0, 999999.0, 999999.5, 1000000.0, 1048576.0, 1e7, 1234567.875, 1e15, 1e16, 1.5e300]
    bounds += [math.inf, 1e-05, 1e-300, 2.0**63, 2.0**1023, 5e-324, 100000.0, 1000000.5, 1100000.0]
    bounds += [2.0**power * multiplier for power in range(-64, 65) for multiplier in (1, 10, 1e-9, 0.001, 3)]

    theirs = [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]  # it has no types
    assert [bound_text(bound) for bound in bounds] == theirs
