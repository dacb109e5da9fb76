"""What a config must hold beyond its types: names, probes, and what belongs together."""

import re
from collections.abc import Mapping

from ebpf_userspace_exporter.config.collision_checks import check_metric_names
from ebpf_userspace_exporter.config.errors import KeyPath, quote
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.metric_checks import check_metrics
from ebpf_userspace_exporter.config.model import Config, Program
from ebpf_userspace_exporter.config.names import C_IDENTIFIER
from ebpf_userspace_exporter.config.selector_checks import check_selector
from ebpf_userspace_exporter.config.target_label_checks import check_target_labels

MAX_PROGRAM_NAME = 128

_USDT_PROBE = re.compile(r"([^\s:]+:)?[^\s:]+")
_SYMBOL = re.compile(r"([^\s:][^:]*:)?[^\s:/]+")


def check(config: Config, findings: Findings) -> None:
    """Record everything that is wrong or doubtful with the config."""
    if not config.programs:
        findings.problem(("programs",), "is empty; expected a list of programs")
    for index, selector in enumerate(config.exclude):
        check_selector(selector, ("exclude", index), findings)
    first: dict[str, KeyPath] = {}
    target_labels: list[Mapping[str, KeyPath]] = []
    for index, program in enumerate(config.programs):
        path: KeyPath = ("programs", index)
        target_labels.append(_check_program(program, path, findings))
        name_path = (*path, "name")
        if program.name in first:
            message = f"a second program named {quote(program.name)}; expected another name"
            findings.problem(name_path, message, name_path, first[program.name])
        first.setdefault(program.name, name_path)
    check_metric_names(config, target_labels, findings)


def _check_program(program: Program, path: KeyPath, findings: Findings) -> Mapping[str, KeyPath]:
    """Return the program's target labels, each with the path that it comes from."""
    if not program.name or len(program.name) > MAX_PROGRAM_NAME or not program.name.isprintable():
        expected = f"1 to {MAX_PROGRAM_NAME} printable characters"
        findings.problem((*path, "name"), f"expected {expected}, got {quote(program.name)}")
    if not program.code.strip():
        findings.problem((*path, "code"), "is empty; expected the program in BPF C")
    elif "\0" in program.code:
        findings.problem((*path, "code"), "holds a NUL; expected the program in BPF C")
    check_selector(program.attachment, (*path, "attachment"), findings)
    _check_probes(program, path, findings)
    for index, flag in enumerate(program.cflags):
        if not flag or "\0" in flag:
            findings.problem((*path, "cflags", index), f"expected an option for clang, got {quote(flag)}")
    target_labels = check_target_labels(program, path, findings)
    check_metrics(program.metrics, (*path, "metrics"), target_labels, findings)
    return target_labels


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
