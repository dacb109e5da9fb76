"""Finds calls of `bpf_usdt_readarg` whose variable is not of the argument's size: these read nothing, silently.

What is compared is known only to the code that bcc generates, and about that code it suppresses clang's warnings. So
the compiled code itself tells: where the sizes differ, the generated function contains a number that is found in the
bytecode, and everywhere else clang drops it with the branch that it is in.
"""

import itertools
import re
import struct
from collections.abc import Iterator

from ebpf_userspace_exporter.worker.image import Function

_MARK = 0x5A17A6C1  # the upper half of the number; any that does not happen by chance
_COMPARISON = re.compile(
    r"(?P<declaration>_bpf_readarg_\w+?_(?P<number>\d+)\([^)]*\) \{\n)"
    r"  if \(len != sizeof\((?P<type>\w+)\)\) return -1;"
)
_LD_IMM64 = 0x18
_INSTRUCTION = struct.Struct("<BBhi")


def mark_sizes(text: str) -> str:
    """Return bcc's argument code so that `unread_arguments` can tell which comparison of sizes failed."""
    return _COMPARISON.sub(_marked, text)


def _marked(comparison: re.Match[str]) -> str:
    # The size of what the code reads into is a parameter, constant once the call is inlined.
    number = f"{_MARK << 32 | int(comparison['number']) << 24:#x} + (sizeof({comparison['type']}) << 16) + len"
    return (
        f"{comparison['declaration']}  if (len != sizeof({comparison['type']})) {{ "
        f'u64 mark; __asm__ __volatile__("%0 = %1 ll" : "=r"(mark) : "i"({number})); return -1; }}'
    )


def unread_arguments(function: Function, code: str) -> Iterator[str]:
    """Yield a warning for each argument that the function asks for and does not get; `code` is the config's."""
    found = set()
    instructions = [*_INSTRUCTION.iter_unpack(function.bytecode)]
    for (operation, _registers, _offset, low), (_, _, _, high) in itertools.pairwise(instructions):
        if operation == _LD_IMM64 and high == _MARK:
            found.add((low >> 24 & 0xFF, low >> 16 & 0xFF, low & 0xFFFF))
    for number, argument_bytes, variable_bytes in sorted(found):
        yield (
            f"{_place(function.name, number, code)}warning: {function.name}: bpf_usdt_readarg({number}, …) reads "
            f"nothing: argument {number} has {argument_bytes} bytes, the variable {variable_bytes}"
        )


def _place(function: str, number: int, code: str) -> str:
    """Return the line of the call in the code, as clang would say it; empty where a macro hides the call."""
    call = re.search(rf"\b{function}\s*\([^;{{]*\{{.*?\b(bpf_usdt_readarg\s*\(\s*{number}\s*,)", code, re.DOTALL)
    return f"code:{code.count(chr(10), 0, call.start(1)) + 1}: " if call else ""
