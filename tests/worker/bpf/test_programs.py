"""Bytecode is loaded with our maps in it, and what the verifier says about bad bytecode reaches the user."""

import os
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.bpf import programs as programs_module
from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map
from ebpf_userspace_exporter.worker.bpf.programs import load_program, program_tag
from ebpf_userspace_exporter.worker.image import Function, MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

pytestmark = pytest.mark.bpf

SHAPE = MapShape("counts", MapKind.ARRAY, key_bytes=4, leaf_bytes=16, max_entries=1, flags=0, built_fd=7)
BOTH_WAYS = pytest.mark.parametrize("uprobe_multi", [True, False], ids=["uprobe_multi", "perf"])


def assemble(*instructions: tuple[int, int, int, int]) -> bytes:
    """Pack (code, source << 4 | destination, offset, immediate)."""
    return b"".join(struct.pack("<BBhi", *fields) for fields in instructions)


EXIT = (0x95, 0, 0, 0)
RETURN_ZERO = assemble((0xB7, 0, 0, 0), EXIT)
RETURN_UNSET = assemble(EXIT)


def code_with_map(built_fd: int) -> bytes:
    """A lookup in the map by its descriptor, then a store through the address of its values."""
    return assemble(
        (0x62, 10, -4, 0),
        (0x18, 1 << 4 | 1, 0, built_fd),
        (0, 0, 0, 0),
        (0xBF, 10 << 4 | 2, 0, 0),
        (0x07, 2, 0, -4),
        (0x85, 0, 0, 1),
        (0x18, 2 << 4 | 1, 0, built_fd),
        (0, 0, 0, 8),
        (0x7A, 1, 0, 5),
        (0xB7, 0, 0, 0),
        EXIT,
    )


@BOTH_WAYS
def test_a_program_loads_and_has_a_tag(uprobe_multi: bool) -> None:
    program = load_program(Function("nothing", RETURN_ZERO), {}, uprobe_multi=uprobe_multi)
    try:
        shown = Path(f"/proc/self/fdinfo/{program}").read_text().split()
        assert program_tag(program) == shown[shown.index("prog_tag:") + 1]
        assert not os.get_inheritable(program)
    finally:
        os.close(program)


@BOTH_WAYS
def test_map_references_of_both_kinds_become_our_descriptors(uprobe_multi: bool) -> None:
    map_fd = create_map(SHAPE)
    try:
        program = load_program(Function("f", code_with_map(7)), {7: map_fd}, uprobe_multi=uprobe_multi)
        os.close(program)
    finally:
        os.close(map_fd)


def test_a_number_that_looks_like_a_reference_but_is_data_is_left_alone() -> None:
    """The second half of a 64-bit constant may be any number."""
    code = assemble((0x18, 1, 0, 0x18), (0, 0, 0, 0x1118), (0xB7, 0, 0, 0), EXIT)

    os.close(load_program(Function("constant", code), {}, uprobe_multi=False))


def test_a_reference_to_no_map_of_the_image_never_reaches_the_kernel() -> None:
    """Its number would be one of our own descriptors."""
    map_fd = create_map(SHAPE)
    try:
        with pytest.raises(AttachError, match="load f: instruction 1 refers to a map that is not in the image"):
            load_program(Function("f", code_with_map(map_fd)), {7: map_fd}, uprobe_multi=False)
    finally:
        os.close(map_fd)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (RETURN_UNSET, "R0 !read_ok"),
        (assemble((0x79, 1 << 4, 0, 0), (0x79, 0, 0, 0), EXIT), "R0 invalid mem access"),
        (assemble((0x7B, 10 << 4 | 10, -600, 0), (0xB7, 0, 0, 0), EXIT), "invalid write to stack"),
        (assemble((0x85, 0, 0, 9999), EXIT), "invalid func unknown#9999"),
    ],
    ids=["unset return value", "loads from a number", "stack too large", "no such helper"],
)
def test_what_the_verifier_refuses_is_told_in_its_words(code: bytes, complaint: str, uprobe_multi: bool) -> None:
    with pytest.raises(AttachError) as caught:
        load_program(Function("bad", code), {}, uprobe_multi=uprobe_multi)

    assert caught.value.reason is Reason.VERIFIER
    assert complaint in caught.value.message
    assert complaint in caught.value.diagnostics
    assert caught.value.message.startswith("load bad: the verifier refuses: ")


def test_of_a_huge_verifier_log_the_beginning_and_the_end_are_kept() -> None:
    """A log beyond the first buffer: 20 000 instructions, then the fault."""
    filler = [(0xB7, 1, 0, number) for number in range(20_000)]

    with pytest.raises(AttachError) as caught:
        load_program(Function("long", assemble(*filler, EXIT)), {}, uprobe_multi=False)

    assert caught.value.reason is Reason.VERIFIER
    assert "R0 !read_ok" in caught.value.diagnostics
    assert "19999: (b7) r1 = 19999" in caught.value.diagnostics
    assert len(caught.value.diagnostics) <= 16 << 10
    lines = caught.value.diagnostics.splitlines()
    assert lines[1].startswith("0: (b7) r1 = 0")
    assert re.fullmatch(r"\.\.\. 199\d\d lines \.\.\.", lines[5])
    assert len(lines) == 5 + 1 + 40


def test_an_endless_loop_is_told_with_advice_and_not_with_the_states_that_follow() -> None:
    until_the_time_is_zero = assemble((0x85, 0, 0, 5), (0x55, 0, -2, 0), EXIT)

    with pytest.raises(AttachError) as caught:
        load_program(Function("endless", until_the_time_is_zero), {}, uprobe_multi=False)

    message = caught.value.message.removeprefix("load endless: the verifier refuses: ")
    assert re.fullmatch(
        r"(infinite loop detected at|back-edge from) insn .*; give the loop a constant bound.*", message
    )


def test_a_log_beyond_the_largest_buffer_still_says_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs_module, "_LOG_BYTES", (4096,))
    filler = [(0xB7, 1, 0, number) for number in range(2000)]

    with pytest.raises(AttachError) as caught:
        load_program(Function("long", assemble(*filler, EXIT)), {}, uprobe_multi=False)

    assert caught.value.reason is Reason.VERIFIER
    assert caught.value.diagnostics


def test_a_refused_program_leaves_no_descriptor(open_descriptors: Callable[[], list[str]]) -> None:
    before = open_descriptors()

    with pytest.raises(AttachError):
        load_program(Function("bad", RETURN_UNSET), {}, uprobe_multi=True)

    assert open_descriptors() == before


def test_without_capabilities_the_reason_is_permission_and_names_them(
    as_nobody: Callable[..., tuple[str, str]],
) -> None:
    reason, message = as_nobody(load_program, Function("f", RETURN_ZERO), {}, uprobe_multi=True)

    assert reason == Reason.PERMISSION
    assert "needs CAP_PERFMON, CAP_BPF" in message


def test_a_full_descriptor_table_is_told_as_such() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        with pytest.raises(AttachError, match=r"load f: .*LimitNOFILE") as caught:
            load_program(Function("f", RETURN_ZERO), {}, uprobe_multi=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert caught.value.reason is Reason.DESCRIPTORS
