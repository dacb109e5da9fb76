"""What a config must hold beyond its types: names, probes, and what belongs together."""

import re

from ebpf_userspace_exporter.config.errors import KeyPath, quote
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.label_checks import check_labels
from ebpf_userspace_exporter.config.metric_checks import check_histogram, check_metric_names
from ebpf_userspace_exporter.config.model import Config, Counter, Gauge, Histogram, Program
from ebpf_userspace_exporter.config.names import C_IDENTIFIER, METRIC_NAME
from ebpf_userspace_exporter.config.selector import MAX_COMM_BYTES

MAX_PROGRAM_NAME = 128

_USDT_PROBE = re.compile(r"([^\s:]+:)?[^\s:]+")
_SYMBOL = re.compile(r"([^\s:][^:]*:)?[^\s:/]+")


def check(config: Config, findings: Findings) -> None:
    """Record everything that is wrong or doubtful with the config."""
    if not config.programs:
        findings.problem(("programs",), "is empty; expected a list of programs")
    first: dict[str, KeyPath] = {}
    for index, program in enumerate(config.programs):
        path: KeyPath = ("programs", index)
        _check_program(program, path, findings)
        name_path = (*path, "name")
        if program.name in first:
            message = f"a second program named {quote(program.name)}; expected another name"
            findings.problem(name_path, message, name_path, first[program.name])
        first.setdefault(program.name, name_path)
    check_metric_names(config, findings)


def _check_program(program: Program, path: KeyPath, findings: Findings) -> None:
    if not program.name or len(program.name) > MAX_PROGRAM_NAME or not program.name.isprintable():
        expected = f"1 to {MAX_PROGRAM_NAME} printable characters"
        findings.problem((*path, "name"), f"expected {expected}, got {quote(program.name)}")
    if not program.code.strip() or "\0" in program.code:
        findings.problem((*path, "code"), "is empty; expected the program in BPF C")
    for binary_name in program.attachment.binary_name:
        _check_attachment(binary_name, (*path, "attachment", "binary_name"), findings)
    _check_probes(program, path, findings)
    for index, counter in enumerate(program.metrics.counters):
        counter_path = (*path, "metrics", "counters", index)
        _check_metric(counter, counter_path, findings)
        check_labels(counter.labels, (*counter_path, "labels"), findings)
    for index, histogram in enumerate(program.metrics.histograms):
        histogram_path = (*path, "metrics", "histograms", index)
        _check_metric(histogram, histogram_path, findings)
        check_labels(histogram.labels, (*histogram_path, "labels"), findings, is_histogram=True)
        check_histogram(histogram, histogram_path, findings)


def _check_attachment(binary_name: str, path: KeyPath, findings: Findings) -> None:
    if not binary_name or not binary_name.isprintable():
        findings.problem(path, f"expected the name of a process, as in /proc/PID/comm, got {quote(binary_name)}")
    elif "/" in binary_name:
        findings.warning(path, f"{quote(binary_name)} has a folder in it; the kernel's name of a process has none")
    if len(binary_name.encode(errors="surrogateescape")) > MAX_COMM_BYTES:
        cut = binary_name.encode(errors="surrogateescape")[:MAX_COMM_BYTES].decode(errors="ignore")
        findings.warning(path, f"the kernel keeps {MAX_COMM_BYTES} bytes of a process's name: compared as {quote(cut)}")


def _check_probes(program: Program, path: KeyPath, findings: Findings) -> None:
    kinds = {"usdt": program.usdt, "uprobes": program.uprobes, "uretprobes": program.uretprobes}
    if not any(kinds.values()):
        message = "no probe; expected usdt, uprobes or uretprobes"
        findings.problem(path, message, *((*path, kind) for kind in kinds))
    for kind, probes in kinds.items():
        for probe, function in probes.items():
            probe_path = (*path, kind, probe)
            if kind == "usdt":
                if not (_USDT_PROBE.fullmatch(probe) and probe.isprintable()):
                    findings.problem(probe_path, f'expected "probe" or "provider:probe", got {quote(probe)}')
            elif not (_SYMBOL.fullmatch(probe) and probe.isprintable()):
                findings.problem(probe_path, f'expected "symbol" or "path:symbol", got {quote(probe)}')
            elif "/" in probe and not probe.startswith("/"):
                message = f'expected a path from "/" or the name of a library, got {quote(probe.rpartition(":")[0])}'
                findings.problem(probe_path, message)
            if not C_IDENTIFIER.fullmatch(function):
                findings.problem(probe_path, f"expected the name of a function in the code, got {quote(function)}")


def _check_metric(metric: Counter | Gauge | Histogram, path: KeyPath, findings: Findings) -> None:
    if not METRIC_NAME.fullmatch(metric.name):
        expected = "a metric's name of letters, digits and _"
        findings.problem((*path, "name"), f"expected {expected}, got {quote(metric.name)}")
    if not C_IDENTIFIER.fullmatch(metric.table):
        findings.problem((*path, "table"), f"expected the name of a BPF map in the code, got {quote(metric.table)}")
