"""Starts the exporter: checks what it stands on, then lets the loop run."""

import gc
import os
import signal
import tempfile
import time
from pathlib import Path

import structlog

from ebpf_userspace_exporter.config.load import Loaded
from ebpf_userspace_exporter.config.settings import Settings
from ebpf_userspace_exporter.supervisor.builds import Builds
from ebpf_userspace_exporter.supervisor.config_watch import ConfigWatch
from ebpf_userspace_exporter.supervisor.descriptors import raise_limit
from ebpf_userspace_exporter.supervisor.loop import Foundations, Supervisor
from ebpf_userspace_exporter.supervisor.signals import STOPPING
from ebpf_userspace_exporter.supervisor.state_dir import StateDir, StateDirError
from ebpf_userspace_exporter.supervisor.webserver import WebUserError, web_user
from ebpf_userspace_exporter.worker.bpf.selftest import perf_uprobes_work, uprobe_multi_works
from ebpf_userspace_exporter.worker.build.headers import HeadersError, find_headers
from ebpf_userspace_exporter.worker.kernel import Capability, effective_capabilities
from ebpf_userspace_exporter.worker.reasons import AttachError
from ebpf_userspace_exporter.worker.rehearsal import rehearse

logger = structlog.get_logger()

ATTACH_VARIABLE = "USERSPACE_EXPORTER_ATTACH"  # "perf" leaves UPROBE_MULTI alone; for comparisons and tests
REHEARSALS = 10  # Python goes on adapting code until it has run some eight times
REHEARSAL_SECONDS = 1.0  # for all programs: the first workers wait for it


class CannotAttachError(Exception):
    """Neither way of attaching works here."""


def run(settings: Settings, loaded: Loaded, config_watch: ConfigWatch) -> int:
    """Run the exporter until it is told to stop; return the exit code of the process."""
    raise_limit()
    # Until the loop can see to what there is to clean up, a stop waits; nor may it hit the self-test's links.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        user = web_user(settings.web_user)
        uprobe_multi = _choose_attach_mode()
        state_dir = StateDir(settings.state_dir, group=user.group)
    except (StateDirError, WebUserError, CannotAttachError) as error:
        logger.error("cannot start", error=str(error))
        return 1
    try:
        headers = find_headers(settings.kernel_headers, state_dir.scratch("headers"))
    except HeadersError as error:
        logger.error("cannot start", error=str(error))
        state_dir.close()
        return 1
    if headers.warning:
        logger.warning("kernel headers", warning=headers.warning)
    builds = Builds(state_dir.scratch("build"), headers.path)
    foundations = Foundations(
        settings,
        loaded,
        config_watch,
        state_dir,
        user,
        builds,
        uprobe_multi=uprobe_multi,
        trusted=os.geteuid() == 0,
        rehearse=lambda: _rehearse(loaded, state_dir),
    )
    # What exists now lives as long as we do: out of the collector's sight it stays unwritten, hence shared, in every
    # worker's memory.
    gc.collect()
    gc.freeze()
    return Supervisor(foundations).run()


def _rehearse(loaded: Loaded, state_dir: StateDir) -> None:
    """In the fork server: save every worker memory; where that fails, its own maps will fail too and say so."""
    end = time.monotonic() + REHEARSAL_SECONDS
    for program in loaded.config.programs:
        try:
            for _ in range(REHEARSALS):
                with tempfile.TemporaryDirectory(dir=state_dir.scratch("build")) as folder:
                    rehearse(program, Path(folder))
        except (OSError, AttachError) as error:
            logger.debug("not rehearsed", program=program.name, error=str(error))
        if time.monotonic() > end:
            return


def _choose_attach_mode() -> bool:
    """Return whether UPROBE_MULTI links are right here; perf events if not; CannotAttachError if neither is."""
    if os.environ.get(ATTACH_VARIABLE) != "perf":
        multi = uprobe_multi_works()
        if multi.works:
            return True
        why = multi.detail
    else:
        why = f"{ATTACH_VARIABLE}=perf"
    perf = perf_uprobes_work()
    if not perf.works:
        if not effective_capabilities() >= {Capability.BPF, Capability.PERFMON, Capability.SYS_PTRACE}:
            raise CannotAttachError(
                f"no right to attach probes: run it as root (sudo), or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE, "
                f"where probes are perf events with CAP_SYS_ADMIN too ({perf.detail})"
            )
        raise CannotAttachError(f"probes cannot be attached here: {perf.detail}")
    logger.info("probes are attached by perf events", uprobe_multi=why)
    return False
