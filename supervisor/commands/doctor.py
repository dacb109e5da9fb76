"""`doctor`: whether probes can work here, and if not, what to do about it."""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from ebpf_userspace_exporter.supervisor.commands.tables import show_json, show_table
from ebpf_userspace_exporter.supervisor.descriptors import SPARE_DESCRIPTORS
from ebpf_userspace_exporter.worker.bpf.selftest import SelfTest, perf_uprobes_work, uprobe_multi_works
from ebpf_userspace_exporter.worker.build.headers import HeadersError, find_headers
from ebpf_userspace_exporter.worker.kernel import Capability, effective_capabilities

_NEEDED = frozenset({Capability.BPF, Capability.PERFMON, Capability.SYS_PTRACE})
_MACHINES = ("x86_64", "aarch64")  # whose system calls worker.bpf.syscalls knows
_OLDEST_KERNEL = (5, 0)
_HOST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO
_IMPORT_SECONDS = 60
_DESCRIPTORS_A_TARGET = 5  # its pidfd, its worker's channel, a map, a function and its link; more where there are more
_MANY_TARGETS = 1000  # the default of max_targets


class Judgment(StrEnum):
    """What a finding means: a note is worth knowing, but something else makes up for it."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was seen, and where it is not good, what to do."""

    check: str
    judgment: Judgment
    seen: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class _Attaching:
    """What the other findings depend on."""

    capabilities: frozenset[Capability]
    multi: SelfTest
    perf: SelfTest

    @property
    def works(self) -> bool:
        return self.multi.works or self.perf.works

    @property
    def is_allowed(self) -> bool:
        return self.capabilities >= _NEEDED


def examine(kernel_headers: Path | None, *, as_json: bool) -> int:
    """Show every finding; return 1 if probes cannot work here, else 0."""
    findings = list(_findings(kernel_headers))
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        show_table(
            ("check", "is", "seen", "what to do"),
            [(finding.check, finding.judgment, finding.seen, finding.fix) for finding in findings],
        )
    return int(any(finding.judgment is Judgment.BAD for finding in findings))


def _findings(kernel_headers: Path | None) -> Iterator[Finding]:
    attaching = _Attaching(effective_capabilities(), uprobe_multi_works(), perf_uprobes_work())
    yield _kernel()
    yield _headers(kernel_headers)
    yield _bcc()
    yield _capabilities(attaching)
    yield _open_files()
    yield _uprobe_multi(attaching)
    yield _perf_uprobes(attaching)
    yield _perf_event_paranoid(attaching)
    yield _unprivileged_bpf(attaching)
    yield _seccomp(attaching)
    yield _lockdown(attaching)
    yield _pid_namespace()
    yield _tracefs(attaching)


def _kernel() -> Finding:
    system = os.uname()
    seen = f"{system.release} {system.machine}"
    if system.machine not in _MACHINES:
        return Finding("kernel", Judgment.BAD, seen, f"run it on {' or '.join(_MACHINES)}")
    numbers = system.release.split("-")[0].split(".")[:2]
    if tuple(int(number) for number in numbers if number.isdigit()) < _OLDEST_KERNEL:
        return Finding("kernel", Judgment.BAD, seen, "run a kernel of 5.0 or later")
    return Finding("kernel", Judgment.GOOD, seen)


def _headers(option: Path | None) -> Finding:
    with tempfile.TemporaryDirectory(prefix="exporter-doctor-") as scratch:
        try:
            headers = find_headers(option, Path(scratch))
        except HeadersError as error:
            return Finding("kernel headers", Judgment.BAD, "none", str(error))
        except OSError as error:
            return Finding("kernel headers", Judgment.BAD, str(error), "make them readable")
    if headers.warning:
        return Finding("kernel headers", Judgment.NOTE, "of another kernel", headers.warning)
    return Finding("kernel headers", Judgment.GOOD, "of the running kernel")


def _bcc() -> Finding:
    """Import it in a process of its own: that library may end the one that it is loaded into."""
    code = "from bcc import BPF, USDT, __version__; print(__version__)"
    fix = "install the distribution's bcc for Python: apt install python3-bpfcc (that of PyPI is another project)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_IMPORT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("bcc", Judgment.BAD, str(error), fix)
    if done.returncode != 0:
        return Finding("bcc", Judgment.BAD, (done.stderr.strip().splitlines() or ["cannot be imported"])[-1], fix)
    return Finding("bcc", Judgment.GOOD, done.stdout.strip())


def _capabilities(attaching: _Attaching) -> Finding:
    missing = _NEEDED - attaching.capabilities
    if missing:
        names = ", ".join(f"CAP_{capability.name}" for capability in sorted(missing))
        fix = "run it as root (sudo), or give it CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE"
        return Finding("capabilities", Judgment.BAD, f"without {names}", fix)
    return Finding("capabilities", Judgment.GOOD, "CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE")


def _open_files() -> Finding:
    """Judge the limit that the exporter takes when it starts, which is the hard one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return Finding("open files", Judgment.GOOD, "no limit")
    targets = max(0, most - SPARE_DESCRIPTORS) // _DESCRIPTORS_A_TARGET
    seen = f"{most} at most: some {targets} targets"
    if targets >= _MANY_TARGETS:
        return Finding("open files", Judgment.GOOD, seen)
    fix = "for more targets raise the hard limit: LimitNOFILE= in the unit, docker --ulimit nofile=524288:524288"
    return Finding("open files", Judgment.NOTE, seen, fix)


def _uprobe_multi(attaching: _Attaching) -> Finding:
    if attaching.multi.works:
        return Finding("UPROBE_MULTI", Judgment.GOOD, "counts right")
    if attaching.perf.works:
        fix = "nothing need be done: perf events serve; links are cheaper and need a kernel of 6.10"
        return Finding("UPROBE_MULTI", Judgment.NOTE, attaching.multi.detail, fix)
    return Finding("UPROBE_MULTI", Judgment.BAD, attaching.multi.detail, _fix_for_attaching(attaching))


def _perf_uprobes(attaching: _Attaching) -> Finding:
    if attaching.perf.works:
        return Finding("perf uprobes", Judgment.GOOD, "count right")
    if attaching.multi.works:
        fix = "nothing need be done: UPROBE_MULTI links serve"
        return Finding("perf uprobes", Judgment.NOTE, attaching.perf.detail, fix)
    return Finding("perf uprobes", Judgment.BAD, attaching.perf.detail, _fix_for_attaching(attaching))


def _fix_for_attaching(attaching: _Attaching) -> str:
    if not attaching.is_allowed:
        return "see capabilities; perf events need CAP_SYS_ADMIN too"
    return "see seccomp and lockdown; the kernel needs CONFIG_UPROBES and CONFIG_BPF_EVENTS"


def _perf_event_paranoid(attaching: _Attaching) -> Finding:
    seen = _read("/proc/sys/kernel/perf_event_paranoid")
    check = "kernel.perf_event_paranoid"
    if seen is None:
        return Finding(check, Judgment.NOTE, "not there", "the kernel has no perf events: UPROBE_MULTI links alone")
    if attaching.works or attaching.is_allowed:
        return Finding(check, Judgment.GOOD, f"{seen}: no matter with CAP_PERFMON")
    return Finding(check, Judgment.NOTE, f"{seen}: for users without CAP_PERFMON", "see capabilities")


def _unprivileged_bpf(attaching: _Attaching) -> Finding:
    seen = _read("/proc/sys/kernel/unprivileged_bpf_disabled")
    check = "kernel.unprivileged_bpf_disabled"
    if seen is None or seen == "0" or Capability.BPF in attaching.capabilities:
        return Finding(check, Judgment.GOOD, "not there" if seen is None else f"{seen}: no matter with CAP_BPF")
    return Finding(
        check, Judgment.NOTE, f"{seen}: bpf(2) is for CAP_BPF alone", "see capabilities; leave this as it is"
    )


def _seccomp(attaching: _Attaching) -> Finding:
    status = _read("/proc/self/status") or ""
    mode = next((line.split()[1] for line in status.splitlines() if line.startswith("Seccomp:")), "0")
    if mode == "0":
        return Finding("seccomp", Judgment.GOOD, "no filter")
    if attaching.works:
        return Finding("seccomp", Judgment.GOOD, "a filter, which lets bpf(2) through")
    fix = "allow bpf and perf_event_open in the container's seccomp profile (docker: --security-opt seccomp=FILE)"
    judgment = Judgment.BAD if attaching.is_allowed else Judgment.NOTE
    return Finding("seccomp", judgment, "a filter, which may keep bpf(2) away", fix)


def _lockdown(attaching: _Attaching) -> Finding:
    text = _read("/sys/kernel/security/lockdown")
    if text is None:
        return Finding("lockdown", Judgment.GOOD, "not enabled, or not to be seen")
    seen = text.partition("[")[2].partition("]")[0]
    if seen == "confidentiality":
        fix = "boot with lockdown=integrity: this one keeps BPF from reading memory"
        return Finding("lockdown", Judgment.NOTE if attaching.works else Judgment.BAD, seen, fix)
    return Finding("lockdown", Judgment.GOOD, seen or text)


def _pid_namespace() -> Finding:
    try:
        seen = str(Path("/proc/self/ns/pid").readlink())
    except OSError as error:
        return Finding("PID namespace", Judgment.BAD, str(error), "mount /proc")
    if seen == _HOST_PID_NAMESPACE:
        return Finding("PID namespace", Judgment.GOOD, "the host's")
    fix = "to see the host's processes: docker --pid=host; Kubernetes hostPID, or shareProcessNamespace for one pod's"
    return Finding("PID namespace", Judgment.NOTE, "its own: sees the processes in it alone", fix)


def _tracefs(attaching: _Attaching) -> Finding:
    place = next((path for path in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing") if _is_tracefs(path)), None)
    if place is not None:
        return Finding("tracefs", Judgment.GOOD, place)
    fix = "nothing need be done" if attaching.works else "mount -t tracefs tracefs /sys/kernel/tracing"
    return Finding("tracefs", Judgment.NOTE, "not mounted, or not to be seen", fix)


def _is_tracefs(path: str) -> bool:
    mounts = _read("/proc/self/mounts") or ""
    return any(line.split()[1:3] == [path, "tracefs"] for line in mounts.splitlines())


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None
