import os
import random

import pytest

from ebpf_userspace_exporter.config.decoders import DECODER_SIZES, KERNEL_ONLY
from ebpf_userspace_exporter.config.model import Decoder, Label
from ebpf_userspace_exporter.worker.decoders import DECODERS, Decode, DecodeError, RowSkipped, label_decoder
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings

UINT = Decoder(name="uint")
STRING = Decoder(name="string")
KNOWN = Decoder(name="static_map", static_map={"1": "one", "2": "two"})
SURROGATE = Decoder(name="static_map", static_map={"1": "\ud800"})
NOT_TWO = Decoder(name="regexp", regexps=("^[^t]",))


class Addresses:
    def name(self, address: int) -> str:
        return f"{address:#x}"


SURROUNDINGS = Surroundings(os.getpid(), Addresses(), lambda _table, stack_id: (stack_id,))


def decoding(*decoders: Decoder) -> Decode:
    return label_decoder(Label(name="x", size=8, decoders=decoders), SURROUNDINGS)


def test_every_decoder_that_a_config_may_name_exists_and_no_other() -> None:
    assert DECODERS.keys() == DECODER_SIZES.keys()


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_reads_exactly_the_sizes_that_a_config_may_give_it(name: str) -> None:
    decode = decoding(Decoder(name=name, static_map={"a": "b"}, regexps=("",)))
    readable = set()
    for size in range(1, 33):
        try:
            decode(bytes(size))
        except DecodeError:
            continue
        readable.add(size)

    assert readable == set(DECODER_SIZES[name] or range(1, 33)) & set(range(1, 33))


def test_no_decoder_is_refused_by_name_and_exists_all_the_same() -> None:
    assert not KERNEL_ONLY.keys() & DECODERS.keys()


def test_decoders_run_in_their_order() -> None:
    decode = decoding(UINT, KNOWN, NOT_TWO)

    assert decode(b"\1") == "one"
    with pytest.raises(RowSkipped):
        decode(b"\2")


@pytest.mark.parametrize(
    ("decoders", "raw", "text"),
    [
        pytest.param((KNOWN,), b"\2\0\0\0", r"unknown:\x02\x00\x00\x00", id="a number that static_map takes for text"),
        pytest.param((NOT_TWO,), b"a\0b", r"a\x00b", id="a NUL that regexp lets through"),
        pytest.param((STRING,), b"a\tb\n\x7f\0", r"a\x09b\x0a\x7f", id="what a terminal would obey"),
        pytest.param((STRING,), "ü~ ".encode(), "ü~ ", id="nothing else"),
    ],
)
def test_control_characters_are_escaped(decoders: tuple[Decoder, ...], raw: bytes, text: str) -> None:
    assert decoding(*decoders)(raw) == text


@pytest.mark.parametrize(
    "decoder",
    [Decoder(name="static_map", static_map={"a\0": "a"}), Decoder(name="regexp", regexps=(r"^([^\x00]+)",))],
    ids=["static_map", "regexp"],
)
def test_decoders_see_control_characters_as_they_are(decoder: Decoder) -> None:
    assert decoding(decoder)(b"a\0") == "a"


@pytest.mark.parametrize(
    "decoders", [(STRING,), (NOT_TWO,), (KNOWN,), (STRING, KNOWN), (STRING, NOT_TWO, KNOWN), (UINT, SURROGATE)]
)
def test_a_label_is_valid_utf8_whatever_the_bytes(decoders: tuple[Decoder, ...]) -> None:
    decode = decoding(*decoders)
    noise = random.Random(7)

    for raw in [bytes([1] + [0] * 7), *(noise.randbytes(8) for _ in range(500))]:
        try:
            decode(raw).encode()
        except RowSkipped:
            continue
