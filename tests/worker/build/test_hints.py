"""Complaints that people meet come with what to do about them."""

from collections.abc import Callable
from typing import Any

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.build.hints import clang_advised, verifier_advised
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

Build = Callable[[Program, int], object]

HEAD = "BPF_HASH(seen, u32);\nint on_call(struct pt_regs *ctx) { u32 key = 0; "
TAIL = " seen.increment(key); return 0; }"
STRUCTS = "struct pair { u64 a; u64 b; };\n" + HEAD.replace("u32)", "u32, struct pair)")


@pytest.mark.bpf
@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (f"{HEAD} key = ctx->di; {TAIL}", "; the code lacks #include <uapi/linux/ptrace.h>"),
        (
            f"{STRUCTS} seen.increment(key); return 0; }}",
            "; seen is a map of structs, which has no increment: add to a",
        ),
        (f"{STRUCTS} seen.atomic_increment(key); return 0; }}", "; seen is a map of structs"),
        (f'{HEAD} printf("%d", key); {TAIL}', "BPF's own functions: printf is neither"),
        (f"{HEAD} key = usleep(7); {TAIL}", "BPF's own functions: usleep is neither"),
        (
            f"{HEAD} char c[64]; __builtin_memset(c, 0, bpf_ktime_get_ns()); key = c[9]; {TAIL}",
            "; there is no libc in BPF: memset needs a small, constant size",
        ),
        (f"#include <stdio.h>\n{HEAD}{TAIL}", "; there is no libc in BPF, nor are its headers"),
        (f"{HEAD} bpf_usdt_readarg(1, ctx, &key); {TAIL}", "; make it static inline; bpf_usdt_readarg is for the"),
    ],
    ids=["pt_regs", "increment", "atomic", "printf", "usleep", "memset", "stdio.h", "readarg"],
)
def test_what_clang_says_comes_with_advice(
    code: str, advice: str, build: Build, make_program: Any, target: Any
) -> None:
    with pytest.raises(AttachError) as caught:
        build(make_program(uprobes={"twice": "on_call"}, code=code, labels=()), target.pid)

    assert caught.value.reason is Reason.COMPILE
    assert advice in caught.value.message


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("R0 invalid mem access 'map_value_or_null'", "compare what lookup() returns with NULL before using it"),
        ("R2 type=map_value_or_null expected=fp, pkt", "compare what lookup() returns with NULL before using it"),
        (
            "R0 pointer arithmetic on map_value_or_null prohibited, null-check it first",
            "compare what lookup() returns with NULL before using it",
        ),
        ("R1 invalid mem access 'scalar'", "read the memory of the process with bpf_probe_read_user()"),
        ("back-edge from insn 12 to 3", "give the loop a constant bound, and a small one"),
        ("infinite loop detected at insn 2\ncur state: R0=1", "give the loop a constant bound, and a small one"),
        (
            "BPF program is too large. Processed 1000001 insn\nprocessed 1000001 insns",
            "give the loop a constant bound, and a small one",
        ),
        (
            "invalid indirect read from stack R2 off -16+1 size 16",
            "set the struct to {} before filling it: the padding in it is read as well",
        ),
        ("6: (85) call bpf_map_lookup_elem#1    ; R0=map_value_or_null(id=1)\nR0 !read_ok", ""),
    ],
    ids=["null", "argument", "arithmetic", "address", "back-edge", "infinite", "large", "padding", "unknown"],
)
def test_what_the_verifier_says_comes_with_advice(words: str, advice: str) -> None:
    expected = f"it refuses; {advice}" if advice else "it refuses."

    assert verifier_advised("it refuses.", words) == expected


def test_what_is_not_known_stays_as_it_is() -> None:
    assert clang_advised("no", "code:1:2: error: use of undeclared identifier 'x'") == "no"


@pytest.mark.parametrize(
    "words",
    [
        "code:2:1: error: call to undeclared function 'usleep'; ISO C99 and later do not support implicit function",
        "code:2:1: error: call to undeclared library function 'usleep' with type 'int (int)'; ISO C99",
    ],
)
def test_a_later_clang_is_understood_as_well(words: str) -> None:
    assert clang_advised("no", words).endswith(": usleep is neither")
