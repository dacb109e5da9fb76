"""The C types of a USDT probe's arguments, as far as its notes tell: signed or not, and how many bytes."""

import re
from collections.abc import Sequence

from ebpf_userspace_exporter.worker.build.arguments import split_arguments
from ebpf_userspace_exporter.worker.elf import SdtNote

_SIZE = re.compile(r"(?P<bytes>-?\d+)(?P<is_float>f?)@")
_TYPES = {
    "1": "unsigned char",
    "2": "unsigned short",
    "4": "unsigned int",
    "8": "unsigned long",
    "-1": "signed char",
    "-2": "short",
    "-4": "int",
    "-8": "long",
}
_FLOATS = {"4": "float", "8": "double"}
UNKNOWN = "?"


def argument_types(notes: Sequence[SdtNote]) -> tuple[str, ...]:
    """Return the type of the variable for each argument that all locations have; a pointer is an unsigned long.

    Where locations differ it is the largest, as bcc has it. `UNKNOWN` is for what sys/sdt.h does not write.
    """
    locations = [split_arguments(note.arguments) for note in notes]
    return tuple(_type(same) for same in zip(*locations, strict=False))


def is_readable(c_type: str) -> bool:
    """Whether `bpf_usdt_readarg` can read an argument of that type."""
    return c_type in _TYPES.values()


def _type(arguments: Sequence[str]) -> str:
    sizes = [match for argument in arguments if (match := _SIZE.match(argument))]
    if len(sizes) < len(arguments):
        return UNKNOWN
    largest = max(sizes, key=lambda size: abs(int(size["bytes"])))
    names = _FLOATS if largest["is_float"] else _TYPES
    return names.get(largest["bytes"].replace("-", "") if largest["is_float"] else largest["bytes"], UNKNOWN)
