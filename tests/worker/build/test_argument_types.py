"""The C type of an argument is what its size and sign in the notes say."""

import pytest

from ebpf_userspace_exporter.worker.build.argument_types import UNKNOWN, argument_types, is_readable
from ebpf_userspace_exporter.worker.elf import SdtNote


def notes(*arguments: str) -> list[SdtNote]:
    return [SdtNote("app", "work", 0x1000, 0, each) for each in arguments]


@pytest.mark.parametrize(
    ("argument", "c_type"),
    [
        ("-4@%eax", "int"),
        ("4@%eax", "unsigned int"),
        ("8@%rax", "unsigned long"),
        ("-8@-16(%rbp)", "long"),
        ("-2@%ax", "short"),
        ("2@%ax", "unsigned short"),
        ("-1@%al", "signed char"),
        ("1@$5", "unsigned char"),
        ("8f@%xmm0", "double"),
        ("-4f@%xmm0", "float"),
        ("-4@[sp, 8]", "int"),
        ("16@%rax", UNKNOWN),
        ("%rax", UNKNOWN),
    ],
)
def test_size_and_sign_make_the_type(argument: str, c_type: str) -> None:
    assert argument_types(notes(argument)) == (c_type,)


def test_of_several_places_the_largest_counts_and_what_not_all_have_is_none() -> None:
    assert argument_types(notes("-4@%eax 8@%rax", "8@%rax -4@$1 1@$2")) == ("unsigned long", "unsigned long")


def test_a_probe_without_arguments_has_no_types() -> None:
    assert argument_types(notes("")) == ()


@pytest.mark.parametrize(("c_type", "readable"), [("int", True), ("double", False), (UNKNOWN, False)])
def test_floats_cannot_be_read(*, c_type: str, readable: bool) -> None:
    assert is_readable(c_type) is readable
