"""What to do about the complaints of clang and of the verifier that people meet first."""

import re

_CLANG = (
    (r"incomplete definition of type 'struct pt_regs'", "the code lacks #include <uapi/linux/ptrace.h>"),
    (
        r"(?:binary expression|address argument to atomic builtin)[^\n]* \('typeof \((\w+)\.leaf\)",
        "{} is a map of structs, which has no increment: add to a member of what lookup_or_try_init() returns",
    ),
    (r"'((?:stdio|stdlib|string|unistd)\.h)' file not found", "there is no libc in BPF, nor are its headers"),
    (r"call to built-in function '(\w+)' is not supported", "there is no libc in BPF: {} needs a small, constant size"),
    (
        r"(?:implicitly declaring library|implicit declaration of|call to undeclared(?: library)?) function '(\w+)'",
        "there is no libc in BPF, only what the code defines and BPF's own functions: {} is neither",
    ),
    (
        r"calls a function that is not inlined",
        "make it static inline; bpf_usdt_readarg is for the functions of USDT probes alone",
    ),
)
_VERIFIER = (
    (
        r"invalid mem access '\w+_or_null'|type=\w+_or_null expected|arithmetic on \w+_or_null",
        "compare what lookup() returns with NULL before using it",
    ),
    (r"invalid mem access '(?:scalar|inv)'", "read the memory of the process with bpf_probe_read_user()"),
    (
        r"back-edge|infinite loop|jumps is too complex|BPF program is too large|too many (?:instructions|states)",
        "give the loop a constant bound, and a small one",
    ),
    (
        r"invalid (?:indirect )?read from stack",
        "set the struct to {{}} before filling it: the padding in it is read as well",
    ),
)


def clang_advised(message: str, words: str) -> str:
    """Return the message, with advice where clang's words, or the message, are known."""
    return _advised(message, f"{message}\n{words}", _CLANG)


def verifier_advised(message: str, words: str) -> str:
    """Return the message, with advice where the verifier's words are known."""
    return _advised(message, words, _VERIFIER)


def _advised(message: str, words: str, hints: tuple[tuple[str, str], ...]) -> str:
    for pattern, advice in hints:
        if found := re.search(pattern, words):
            return f"{message.removesuffix('.')}; {advice.format(*found.groups())}"
    return message
