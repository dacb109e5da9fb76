"""What a selector must hold: keys that some process can match."""

import re

from ebpf_userspace_exporter.config.errors import KeyPath, quote
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.patterns import MAX_PATTERN, pattern_problem
from ebpf_userspace_exporter.config.selector import MAX_COMM_BYTES, Selector, comm_of

MAX_SELECTOR_DEPTH = 8

_TEXTS = ("exe", "argv0", "user", "cwd", "cgroup", "systemd_unit", "container_id", "library")
_PATHS = ("exe", "cwd", "library")
_CONTAINER_ID = re.compile(r"[0-9a-f]{1,64}")
_VARIABLE = re.compile(r"[^=\s\0]+")


def check_selector(selector: Selector, path: KeyPath, findings: Findings, *, depth: int = 1) -> None:
    """Record what is wrong with a selector, and with those in it; `depth` is 1 for the outermost."""
    if depth > MAX_SELECTOR_DEPTH:
        findings.problem(path, f"more than {MAX_SELECTOR_DEPTH} selectors within each other")
        return
    if not selector.model_fields_set:
        findings.problem(path, "no key; expected binary_name, exe, cmdline or another one of a selector")
    for name, field in Selector.model_fields.items():
        if name in selector.model_fields_set and getattr(selector, name) in ((), {}):
            findings.problem((*path, field.alias or name), f"is empty; expected {field.description}")
    for index, binary_name in enumerate(selector.binary_name):
        _check_binary_name(binary_name, (*path, "binary_name", index), findings)
    for name in _TEXTS:
        for index, text in enumerate(getattr(selector, name)):
            _check_text(name, text, (*path, name, index), findings)
    for index, pattern in enumerate(selector.cmdline):
        _check_pattern(pattern, (*path, "cmdline", index), findings)
    for variable, pattern in selector.environ.items():
        variable_path = (*path, "environ", variable)
        if not _VARIABLE.fullmatch(variable):
            findings.problem(variable_path, f"expected the name of an environment variable, got {quote(variable)}")
        _check_pattern(pattern, variable_path, findings)
    for name, relative in (("parent", selector.parent), ("ancestor", selector.ancestor)):
        if relative is not None:
            check_selector(relative, (*path, name), findings, depth=depth + 1)
    for key, selectors in (("any", selector.any_of), ("not", selector.none_of)):
        for index, inner in enumerate(selectors):
            check_selector(inner, (*path, key, index), findings, depth=depth + 1)


def _check_binary_name(binary_name: str, path: KeyPath, findings: Findings) -> None:
    if not binary_name or not binary_name.isprintable():
        findings.problem(path, f"expected the name of a process, as in /proc/PID/comm, got {quote(binary_name)}")
    elif "/" in binary_name:
        findings.warning(path, f"{quote(binary_name)} has a folder in it; the kernel's name of a process has none")
    if comm_of(binary_name) != binary_name:
        cut = quote(binary_name.encode()[:MAX_COMM_BYTES].decode(errors="ignore"))
        findings.warning(path, f"the kernel keeps {MAX_COMM_BYTES} bytes of a process's name: compared as {cut}")


def _check_text(name: str, text: str, path: KeyPath, findings: Findings) -> None:
    if len(text) > MAX_PATTERN:
        findings.problem(path, f"{len(text)} characters; expected at most {MAX_PATTERN}")
    elif not text or "\0" in text or (name == "container_id" and not _CONTAINER_ID.fullmatch(text)):
        findings.problem(path, f"expected {Selector.model_fields[name].description}, got {quote(text)}")
    elif name in _PATHS and text[0] not in "/*?[":
        message = f"{quote(text)} never matches: a path starts with /; did you mean {quote('*/' + text)}?"
        findings.warning(path, message)
    elif name == "user" and text.isascii() and text.isdigit():
        findings.warning(path, f"{quote(text)} is taken for a user's name; the key for a user's number is uid")


def _check_pattern(pattern: str, path: KeyPath, findings: Findings) -> None:
    if not pattern:
        findings.problem(path, "is empty, which every text matches; expected a pattern")
    elif (problem := pattern_problem(pattern)) is not None:
        findings.problem(path, problem)
