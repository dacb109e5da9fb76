import platform
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.decoders.syscall_names import native_syscall_names

# From the kernel's tables: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
NUMBERS = {
    "x86_64": {0: "read", 59: "execve", 101: "ptrace", 257: "openat", 321: "bpf", 435: "clone3"},
    "aarch64": {63: "read", 221: "execve", 117: "ptrace", 56: "openat", 280: "bpf", 435: "clone3"},
}


def test_numbers_are_those_of_this_machine() -> None:
    name_of = native_syscall_names()
    numbers = NUMBERS[platform.machine()]

    assert {number: name_of(number) for number in numbers} == numbers


@pytest.mark.parametrize("number", [-1, -101, 100_000, 1 << 31, 1 << 32, (1 << 63) - 1, -(1 << 63)])
def test_a_number_without_a_call_has_no_name(number: int) -> None:
    """1 << 32 is `read` on x86-64 if only its lower half is looked at."""
    assert native_syscall_names()(number) is None


def test_without_libseccomp_no_number_has_a_name() -> None:
    assert native_syscall_names("libseccomp-that-nobody-has.so.2")(0) is None


def test_a_name_is_freed_each_time() -> None:
    name_of = native_syscall_names()
    name_of(0)
    before = _resident_pages()

    for _ in range(200_000):
        name_of(0)

    assert _resident_pages() - before < 500, "a leak of 32 bytes a call would be 1500 pages"


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])
