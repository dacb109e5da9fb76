import pytest

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.number import as_number


@pytest.mark.parametrize(
    ("sizes", "words"), [((4,), "4 bytes"), ((4, 8), "4 or 8 bytes"), ((1, 2, 4, 8), "1, 2, 4 or 8 bytes")]
)
def test_a_wrong_size_is_an_error_that_names_the_right_ones(sizes: tuple[int, ...], words: str) -> None:
    with pytest.raises(DecodeError) as caught:
        as_number("x", b"abc", *sizes)

    assert caught.value.expected == words
