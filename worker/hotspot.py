"""Probes that every OpenJDK has, and that fire only where the JVM was told to when it started.

They are compiled into libjvm.so without a semaphore, so attaching to them succeeds and counts nothing.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_FLAGS = {
    "monitor__": "DTraceMonitorProbes",
    "object__alloc": "DTraceAllocProbes",
    "method__entry": "DTraceMethodProbes",
    "method__return": "DTraceMethodProbes",
}
_ALL = "ExtendedDTraceProbes"  # turns the others on, there where it stands among them; its opposite turns none off
_FLAG = re.compile(r"-XX:(?P<sign>[+-])(?P<name>\w+)")
_FILES = ("@", "-XX:Flags=", "-XX:VMOptionsFile=")
_SEPARATORS = re.compile(r"[\s'\"]+")


def check_flags(probes: Collection[str], pid: int) -> None:
    """Raise AttachError PROBE_DISABLED if process `pid` is a JVM that will never fire one of these USDT probes."""
    if not any(True for _ in _needed(probes)):
        return
    try:
        arguments = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        variables = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
    except OSError:
        return
    environ = {name: text for name, _, text in (variable.partition("=") for variable in variables)}
    flag = missing_flag(probes, arguments, environ)
    if flag is not None:
        message = f"this JVM has the probe, but does not fire it: start the JVM with {flag}"
        raise AttachError(Reason.PROBE_DISABLED, message)


def missing_flag(probes: Iterable[str], arguments: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return what a JVM should have been started with for these USDT probes, `-XX:+…`; None where nothing is missing.

    `arguments` are its command line. None also where that does not tell: options are in files, or it is another program
    than `java`, which gives a JVM of its own its options by itself.
    """
    if not arguments or Path(arguments[0]).name != "java":
        return None
    options = list(_options(arguments, environ))
    if any(option.startswith(_FILES) for option in options):
        return None
    given: set[str] = set()
    for match in filter(None, map(_FLAG.fullmatch, options)):
        if match["sign"] == "-":
            given.discard(match["name"])
        else:
            given.update(_FLAGS.values() if match["name"] == _ALL else (match["name"],))
    return next((f"-XX:+{flag}" for flag in _needed(probes) if flag not in given), None)


def _options(arguments: Sequence[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the options in the order in which the JVM takes them: the last one has its way."""
    for variable in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"):
        yield from _SEPARATORS.split(environ.get(variable, ""))
    yield from arguments[1:]
    yield from _SEPARATORS.split(environ.get("_JAVA_OPTIONS", ""))


def _needed(probes: Iterable[str]) -> Iterator[str]:
    for probe in probes:
        name = probe.removeprefix("hotspot:")
        yield from (flag for start, flag in _FLAGS.items() if name.startswith(start))
