"""Names are demangled as c++filt does, unless they are made to do harm."""

import ctypes
import os
import re
import subprocess
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.symbols.demangle import Demangler
from tests.forked import children_of_ours

RUST = [
    (["std", "rt", "lang_start"], "std::rt::lang_start"),
    (
        ["core", "ptr", "drop_in_place$LT$std..rt..lang_start$LT$$LP$$RP$$GT$..$u7b$$u7b$closure$u7d$$u7d$$GT$"],
        "core::ptr::drop_in_place<std::rt::lang_start<()>::{{closure}}>",
    ),
    (
        ["_$LT$core..ops..range..Range$LT$T$GT$$u20$as$u20$core..fmt..Debug$GT$", "fmt"],
        "<core::ops::range::Range<T> as core::fmt::Debug>::fmt",
    ),
    (["_$LT$$RF$$BP$x$C$$SP$$u5b$y$u5d$$GT$", "of"], "<&*x,@[y]>::of"),
]


def rust(*parts: str) -> bytes:
    """Return a name as rustc mangles it (symbol_names/legacy.rs)."""
    return f"_ZN{''.join(f'{len(part)}{part}' for part in (*parts, 'h0123456789abcdef'))}E".encode()


def bomb(doublings: int) -> bytes:
    """Return a name whose every parameter is a function type with the one before twice."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    name = "_Z1fPFviiE"
    for last in range(0, 2 * doublings, 2):
        name += f"PFvS{digits[last // 36]}{digits[last % 36]}_S{digits[last // 36]}{digits[last % 36]}_E"
    return name.replace("S0", "S").encode()


def filtered(name: bytes) -> str:
    return subprocess.run(["c++filt"], input=name, capture_output=True, check=True, timeout=60).stdout.decode().strip()


def test_every_function_of_libstdcxx_is_called_as_by_nm() -> None:
    ctypes.CDLL("libstdc++.so.6")
    with Path("/proc/self/maps").open() as maps:
        path = next(line.split()[-1] for line in maps if "libstdc++.so" in line)
    mangled, demangled = (
        re.findall(
            r"^\w+ [tTwWi] (.*?)(?:@.*)?$",
            subprocess.run(["nm", "-D", *option, path], capture_output=True, text=True, check=True).stdout,
            re.MULTILINE,
        )
        for option in ([], ["-C"])
    )
    demangler = Demangler()

    assert len(mangled) > 3000
    assert [demangler.demangle(name.encode()) for name in mangled] == demangled


@pytest.mark.parametrize(
    "name",
    [
        b"main",
        b"f",
        b"_Zebra",
        b"_ZN3foo",
        b"_Z",
        b"",
        b"i",
        b"_RNvC7mycrate3foo",
        b"\xff\xfe",
        b"_Z" + b"9" * 2000,
        b"_Z1f" + b"i" * 5000,
    ],
)
def test_other_names_are_as_they_are(name: bytes) -> None:
    assert Demangler().demangle(name) == name.decode(errors="backslashreplace")


@pytest.mark.parametrize(
    "name",
    [
        b"_Z3foov.cold",
        b"_ZNSt6vectorIiSaIiEE12emplace_backIJiEEERiDpOT_",
        b"_Z1fSt4pairIiS_IiS_IiS_IiS_IiS_IiS_IiS_IiS_IiS_IiS_IiS_IiS_IiS_IiiEEEEEEEEEEEEEE",
    ],
    ids=["a part of a function", "a pack", "many references"],
)
def test_what_may_grow_is_demangled_too(name: bytes) -> None:
    assert Demangler().demangle(name) == filtered(name) != name.decode()


@pytest.mark.parametrize(("parts", "name"), RUST)
def test_a_rust_name_has_no_hash_and_no_escapes(parts: list[str], name: str) -> None:
    assert Demangler().demangle(rust(*parts)) == name
    assert Demangler().demangle(rust(*parts) + b".llvm.1234567890") == name


def test_a_name_of_gigabytes_costs_a_moment_once() -> None:
    demangler, began, others = Demangler(), os.times(), children_of_ours()

    assert demangler.demangle(bomb(8)).startswith("f(void (*)(int, int), ")
    for doublings in (40, 50, 8):
        assert demangler.demangle(bomb(doublings)) == bomb(doublings).decode()

    ended = os.times()
    assert sum(ended[:4]) - sum(began[:4]) < 1.5
    assert children_of_ours() == others


def test_a_few_references_and_no_more_are_followed_here() -> None:
    demangler = Demangler()
    demangler._may_fork = False

    assert demangler.demangle(bomb(6)).startswith("f(void (*)(int, int), ")
    assert demangler.demangle(bomb(7)) == bomb(7).decode()
    assert demangler.demangle(b"_Z1fIJiiEEvDpT_") == "_Z1fIJiiEEvDpT_"  # one reference, repeated for each of a pack


def test_without_the_library_names_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebpf_userspace_exporter.worker.symbols.demangle._library", lambda: None)

    assert Demangler().demangle(b"_Z3foov") == "_Z3foov"
