"""Runs the peer, a process of bcc's own, and reads what it took."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from benchmarks.readings import Memory, cpu_seconds, memory

from ebpf_userspace_exporter.worker.build.headers import find_headers

_SCRIPT = Path(__file__).with_name("bcc_attach.py")


@dataclass(frozen=True, slots=True)
class Peer:
    """What bcc took from exec to the attached probe, and what it then had in memory."""

    cpu_seconds: float
    wall_seconds: float
    memory: Memory


def run_peer(pid: int, config: str) -> Peer:
    """Let bcc attach the config's first program to one process, and end.

    Before the exporter, not after: bcc does not tell the kernel of a probe's semaphore, and is refused (EINVAL) where
    somebody who does has the same place of the same file, or left it without the kernel's taking notice.
    """
    program = yaml.safe_load(config)["programs"][0]
    ((probe, function),) = program["usdt"].items()
    command = [sys.executable, str(_SCRIPT), str(pid), probe.split(":")[-1], function, program["code"]]
    with peer_environment() as environment:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "attached\n"
            peer = Peer(cpu_seconds(process.pid), time.monotonic() - begin, memory(process.pid))
            process.stdin.close()  # it ends
    return peer


@contextlib.contextmanager
def peer_environment() -> Iterator[dict[str, str]]:
    """Give bcc the same headers as the exporter."""
    with tempfile.TemporaryDirectory(prefix="exporter-bench-") as scratch:
        path = find_headers(None, Path(scratch)).path
        yield {**os.environ, **({} if path is None else {"BCC_KERNEL_SOURCE": str(path)})}
