"""The one place where an errno of bpf(2) or perf_event_open(2) becomes a reason and words that a user can act on."""

import errno
import os
from collections.abc import Set

from ebpf_userspace_exporter.worker.kernel import Capability, effective_capabilities
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

ENOTSUPP = 524  # the kernel's own, not in errno.h, which it should not but does return

BPF_CAPABILITIES = frozenset({Capability.BPF, Capability.PERFMON})
# Since CVE-2025-38466 (6.16, 6.12.39, 6.6.99, 6.1.146): PERFMON is not enough for perf's uprobes any more.
PERF_CAPABILITIES = frozenset({Capability.SYS_ADMIN})

_REASONS = {
    errno.EPERM: Reason.PERMISSION,
    errno.EACCES: Reason.PERMISSION,
    errno.ESRCH: Reason.TARGET_CHANGED,
    errno.EMFILE: Reason.DESCRIPTORS,
    errno.ENFILE: Reason.DESCRIPTORS,
    errno.ENOMEM: Reason.MEMORY,
}


def attach_error(
    error: OSError, doing: str, *, otherwise: Reason, needed: Set[Capability] = BPF_CAPABILITIES
) -> AttachError:
    """Return `error`, met while `doing`, with its reason; `otherwise` where the errno alone does not tell one.

    `needed` are the capabilities that a refused permission is explained with.
    """
    number = error.errno or 0
    reason = _REASONS.get(number, otherwise)
    words = _describe(number, error)
    if reason is Reason.PERMISSION:
        words = f"{words} ({_explain_permission(needed)})"
    elif reason is Reason.TARGET_CHANGED:
        words = "the process is gone"
    elif reason is Reason.DESCRIPTORS:
        words = f"{words} (raise LimitNOFILE or ulimit -n)"
    return AttachError(reason, f"{doing}: {words}")


def _describe(number: int, error: OSError) -> str:
    if number == ENOTSUPP:
        return f"not supported by this kernel (errno {ENOTSUPP})"
    name = errno.errorcode.get(number, "")
    return f"{error.strerror or os.strerror(number)}{f' ({name})' if name else ''}"


def _explain_permission(needed: Set[Capability]) -> str:
    missing = needed - effective_capabilities()
    names = ", ".join(f"CAP_{capability.name}" for capability in sorted(missing or needed))
    return f"needs {names}" if missing else f"has {names}: refused by a security module, lockdown or a user namespace"
