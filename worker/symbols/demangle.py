"""Names of C++ and Rust functions as their authors wrote them."""

import ctypes
import functools
import os
import re
import signal
import sys
from collections.abc import Callable

_MAX_MANGLED_BYTES = 2048
_MAX_TEXT_BYTES = 4096
_MAX_REFERENCES = 12
_CHILD_SECONDS = 0.25

_REFERENCE = re.compile(rb"[ST][0-9A-Z]*_")
_PACK = b"Dp"
_RUST_UNIT = re.compile(rb"(?<=17h[0-9a-f]{16}E)\.llvm\.[0-9A-F]+$")
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")
_RUST_ESCAPE = re.compile(r"\$(?:u([0-9a-f]{1,6})|(SP|BP|RF|LT|GT|LP|RP|C))\$")
_RUST_UNDERSCORE = re.compile(r"(?:(?<=::)|^)_(?=\$)")
_RUST_SIGNS = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}

_Demangle = Callable[[bytes], bytes]


class Demangler:
    """Demangles with libstdc++, which every C++ program on the host has; where it is missing, names stay as they are.

    A mangled name may refer to parts of itself, so that 250 bytes can say gigabytes. Names that could do so are
    demangled in a child with little time; after the first one that took more, no other such name is tried.
    """

    def __init__(self) -> None:
        self._may_fork = True

    def demangle(self, name: bytes) -> str:
        """Return the name with its namespaces, parameters and template arguments; others as they are."""
        demangle = _library() if name.startswith(b"_Z") and len(name) <= _MAX_MANGLED_BYTES else None
        text: bytes | None = b""
        if demangle is not None and len(_REFERENCE.findall(name)) <= _MAX_REFERENCES and _PACK not in name:
            text = demangle(_RUST_UNIT.sub(b"", name))
        elif demangle is not None and self._may_fork:
            text = _demangle_in_child(demangle, name)
            self._may_fork = text is not None
        return _without_rust_marks((text or name).decode(errors="backslashreplace"))


@functools.cache
def _library() -> _Demangle | None:
    try:
        function = ctypes.CDLL("libstdc++.so.6")["__cxa_demangle"]
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    free = ctypes.CDLL(None).free
    free.argtypes = (ctypes.c_void_p,)

    def demangle(name: bytes) -> bytes:
        """Return the text, nothing for what is no mangled name."""
        text = function(name, None, None, None)
        if not text:
            return b""
        try:
            return ctypes.string_at(text)[:_MAX_TEXT_BYTES]
        finally:
            free(text)

    return demangle


def _demangle_in_child(demangle: _Demangle, name: bytes) -> bytes | None:
    """Return what `demangle` does, None where it takes too long."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends a process also in the middle of C code
            signal.setitimer(signal.ITIMER_PROF, _CHILD_SECONDS)
            os.dup2(writing, 0)
            os.closerange(1, 1 << 30)  # or it would keep links alive that its parent lets go
            os.write(0, demangle(name))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return text if status == 0 else None


def _without_rust_marks(text: str) -> str:
    """Return a Rust name, which is mangled as if it were C++, without its hash and escapes; other text unchanged.

    See rustc's symbol_names/legacy.rs; the newer scheme, `_R...`, is not known here.
    """
    hash_at = _RUST_HASH.search(text)
    if hash_at is None:
        return text
    name = _RUST_UNDERSCORE.sub("", text[: hash_at.start()]).replace("..", "::")
    return _RUST_ESCAPE.sub(lambda escape: _RUST_SIGNS[escape[2]] if escape[2] else _character(escape), name)


def _character(escape: re.Match[str]) -> str:
    code = int(escape[1], 16)
    return chr(code) if code <= sys.maxunicode else escape[0]
