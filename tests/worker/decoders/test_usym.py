import sys

import pytest

from ebpf_userspace_exporter.worker.decoders.errors import DecodeError
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from ebpf_userspace_exporter.worker.decoders.usym import Usym


class Symbols:
    """Knows one function; the process was gone where the address is 0."""

    def name(self, address: int) -> str:
        if not address:
            raise LookupError
        return f"shop::pay(int)+{address - 0x7F00_0000_0000:#x}"


def no_stack(table: str, stack_id: int) -> tuple[int, ...]:
    raise KeyError(stack_id)


USYM = Usym(Surroundings(pid=1, symbols=Symbols(), read_stack=no_stack))


def test_an_address_is_function_and_offset() -> None:
    assert USYM((0x7F00_0000_0012).to_bytes(8, sys.byteorder)) == "shop::pay(int)+0x12"


@pytest.mark.parametrize("size", [0, 1, 4, 7, 9, 16])
def test_other_sizes_are_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match="expected 8 bytes"):
        USYM(b"\1" * size)


def test_an_address_in_a_process_that_nobody_has_seen_is_an_error() -> None:
    with pytest.raises(DecodeError, match="expected an address in a process that is there"):
        USYM(bytes(8))
