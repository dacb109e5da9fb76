import signal
import sys

import pytest

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.signal import decode_signal


def raw(number: int, size: int = 4) -> bytes:
    return number.to_bytes(size, sys.byteorder, signed=True)


@pytest.mark.parametrize("size", [1, 4, 8])
def test_a_signal_has_its_name(size: int) -> None:
    assert decode_signal(raw(9, size)) == "SIGKILL"
    assert decode_signal(raw(15, size)) == "SIGTERM"
    assert decode_signal(raw(31, size)) == "SIGSYS"


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGRTMIN, "SIGRTMIN"),
        (signal.SIGRTMIN + 1, "SIGRTMIN+1"),
        (signal.SIGRTMAX, f"SIGRTMIN+{signal.SIGRTMAX - signal.SIGRTMIN}"),
    ],
)
def test_real_time_signals_are_counted_from_the_first_one(number: int, name: str) -> None:
    assert decode_signal(raw(number)) == name


@pytest.mark.parametrize("number", [0, -1, -15, signal.SIGRTMIN - 1, signal.SIGRTMAX + 1, 127])
def test_what_is_no_signal_stays_a_number(number: int) -> None:
    assert decode_signal(raw(number)) == decode_signal(raw(number, 1)) == str(number)


@pytest.mark.parametrize("size", [0, 2, 3, 16])
def test_other_sizes_are_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match=r"signal: .*expected 1, 4 or 8 bytes"):
        decode_signal(bytes(size))
