"""Argument code is the same for all processes wherever it can be, and never silently wrong."""

import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.build.arguments import ArgumentText, argument_text
from ebpf_userspace_exporter.worker.build.probes import UsdtProbe
from ebpf_userspace_exporter.worker.build.target_elves import OpenedElf
from ebpf_userspace_exporter.worker.elf import Elf, SdtNote
from ebpf_userspace_exporter.worker.image import FileIdentity
from ebpf_userspace_exporter.worker.target_files import MappedFile

IDENTITY = FileIdentity(0, 0, 0, 0, 0)
LOADED_AT = 0x5000_0000_0000


def text_of(binary: Path, *locations: tuple[int, str]) -> ArgumentText:
    """Generate in a child, as the builder does: a bug of bcc must not end the tests."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        mapped = MappedFile(str(binary), 0, 0, LOADED_AT, LOADED_AT + mmap.PAGESIZE, 0, is_executable=True)
        file = OpenedElf(None, IDENTITY, Elf(binary.read_bytes()), mapped)
        notes = tuple(SdtNote("app", "work", address, 0x4000, arguments) for address, arguments in locations)
        made = argument_text([UsdtProbe("on_work", file, notes)])
        os.write(write_end, bytes([made.is_process_bound]) + made.text.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0
    return ArgumentText(answer[1:].decode(), bool(answer[0]))


def test_an_address_relative_to_a_symbol_becomes_relative_to_the_probe(pie_binary: Path) -> None:
    level = Elf(pie_binary.read_bytes()).variable_address("level")
    assert level

    made = text_of(pie_binary, (0x1100, "-4@level(%rip) -4@8+level(%rip) -4@level+4(%rip)"))

    assert not made.is_process_bound
    for extra in (0, 8, 4):
        assert f"ctx->ip + {level + extra - 0x1100};" in made.text


def test_locations_with_the_same_arguments_need_no_telling_apart(pie_binary: Path) -> None:
    made = text_of(pie_binary, (0x1100, "8@%rax"), (0x2100, "8@%rax"), (0x2200, "8@%rax"))

    assert not made.is_process_bound
    assert "switch" not in made.text


def test_locations_are_told_apart_by_their_offset_in_the_page(pie_binary: Path) -> None:
    made = text_of(pie_binary, (0x1100, "8@%rax"), (0x2200, "8@%rbx"), (0x3200, "8@%rbx"))

    assert not made.is_process_bound
    assert "case 0x100ULL" in made.text
    assert made.text.count("case 0x200ULL") == 1


def test_colliding_locations_get_the_addresses_of_the_process(pie_binary: Path, fixed_binary: Path) -> None:
    relocated = text_of(pie_binary, (0x1100, "8@%rax"), (0x2100, "8@%rbx"))
    fixed = text_of(fixed_binary, (0x401100, "8@%rax"), (0x402100, "8@%rbx"))

    assert relocated.is_process_bound
    assert f"case {LOADED_AT + 0x1100:#x}ULL" in relocated.text
    assert not fixed.is_process_bound
    assert "case 0x401100ULL" in fixed.text


@pytest.mark.parametrize("argument", ["8f@%xmm0", "16@%rax", "8@nowhere(%rip)", "8@symbol"])
def test_an_unreadable_argument_keeps_the_others_in_their_places(argument: str, pie_binary: Path) -> None:
    made = text_of(pie_binary, (0x1100, f"8@%rax {argument} 4@%ebx"))

    assert "unavailable" in made.text.split("_bpf_readarg_on_work_2")[0]
    assert "= ctx->bx" in made.text.split("_bpf_readarg_on_work_3")[1]


@pytest.mark.parametrize(
    ("arguments", "saying", "absent"),
    [
        ("", "the probe app:work has no arguments, the code asks for number 1", range(1, 13)),
        ("8@%rax", "the probe app:work has 1 argument, the code asks for number 2", range(2, 13)),
        ("8@%rax 8@%rbx", "the probe app:work has 2 arguments, the code asks for number 0", (0, *range(3, 13))),
    ],
)
def test_arguments_that_a_probe_has_not_are_declared_as_such(
    arguments: str, saying: str, absent: Iterable[int], pie_binary: Path
) -> None:
    made = text_of(pie_binary, (0x1100, arguments))

    assert saying in made.text
    for number in absent:
        assert f"static int _bpf_readarg_on_work_{number}(" in made.text


def test_a_probe_with_all_arguments_lacks_none(pie_binary: Path) -> None:
    made = text_of(pie_binary, (0x1100, " ".join(["8@%rax"] * 12)))

    assert made.text.count("unavailable") == 1
    assert "has 12 arguments, the code asks for number 0" in made.text
