import pytest

from ebpf_userspace_exporter.config.buckets import bucket_keys, upper_bounds
from ebpf_userspace_exporter.config.model import BucketType, Decoder, Histogram, Label

BUCKET = Label(name="bucket", size=8, decoders=(Decoder(name="uint"),))


def histogram(bucket_type: BucketType, maximum: int = 0, keys: tuple[float, ...] = (), by: float = 1.0) -> Histogram:
    return Histogram(
        name="h",
        table="t",
        labels=(BUCKET,),
        bucket_type=bucket_type,
        bucket_max=maximum,
        bucket_keys=keys,
        bucket_multiplier=by,
    )


@pytest.mark.parametrize(
    ("made", "keys", "bounds"),
    [
        pytest.param(histogram(BucketType.EXP2, 3), (0, 1, 2, 3), (1, 2, 4, 8), id="exp2"),
        pytest.param(histogram(BucketType.EXP2ZERO, 3), (0, 1, 2, 3), (0, 1, 2, 4), id="exp2zero"),
        pytest.param(histogram(BucketType.LINEAR, 2, by=0.5), (0, 1, 2), (0, 0.5, 1), id="linear"),
        pytest.param(histogram(BucketType.FIXED, keys=(5, 7), by=10), (5, 7), (50, 70), id="fixed"),
        pytest.param(histogram(BucketType.FIXED), (), (), id="fixed without keys"),
    ],
)
def test_upper_bounds_follow_from_the_bucket_type(
    made: Histogram, keys: tuple[float, ...], bounds: tuple[float, ...]
) -> None:
    assert bucket_keys(made) == keys
    assert upper_bounds(made) == bounds


def test_a_bound_that_no_float_holds_is_an_overflow() -> None:
    with pytest.raises(OverflowError):
        upper_bounds(histogram(BucketType.EXP2, 1024))
