"""Breakpoints that a forked child inherits from a probed process, taken out again.

A child's copy of memory has its parent's breakpoints, and semaphores raised as they were. A perf event takes them out
at the first hit; a UPROBE_MULTI link never does: each hit costs 0.7 µs, and nothing is counted. But when any uprobe of
a place goes, the kernel looks at every process that maps the file and removes the breakpoint, and lowers the semaphore,
where nobody wants it (register_for_each_vma in kernel/events/uprobes.c).
"""

import os
from collections.abc import Sequence

from ebpf_userspace_exporter.worker.bpf.links import Attachment, File, open_link
from ebpf_userspace_exporter.worker.bpf.programs import load_program
from ebpf_userspace_exporter.worker.image import Function
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

_RETURN_ZERO = Function("heal", bytes.fromhex("b700000000000000 9500000000000000"))


def heal(pid: int, places: Sequence[tuple[File, Sequence[int], Sequence[int]]]) -> None:
    """Take inherited breakpoints out of the process `pid` at `places`: (file, offsets, ref_ctr_offsets as attached).

    In a short-lived child of the supervisor, as closing a link waits for the kernel. A process that is gone is healed;
    every file is tried before the first AttachError is raised. Counting of other processes goes on meanwhile.
    """
    failures: list[AttachError] = []
    program = load_program(_RETURN_ZERO, {}, uprobe_multi=True)
    try:
        for file, offsets, ref_ctr_offsets in places:
            distinct = tuple(dict.fromkeys(zip(offsets, ref_ctr_offsets, strict=True)))
            try:
                os.close(open_link(program, Attachment(_RETURN_ZERO.name, file, distinct, is_return=False), pid))
            except AttachError as error:
                if error.reason is Reason.TARGET_CHANGED:
                    return
                failures.append(error)
    finally:
        os.close(program)
    if failures:
        raise failures[0]
