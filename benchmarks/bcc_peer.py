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
    """Let bcc attach the config's first program to one process, and end."""
    program = yaml.safe_load(config)["programs"][0]
    ((probe, function),) = program["usdt"].items()
    arguments = [str(pid), probe.split(":")[-1], function, program["code"]]
    with _headers() as environment:
        begin = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, _SCRIPT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "attached\n"
        peer = Peer(cpu_seconds(process.pid), time.monotonic() - begin, memory(process.pid))
        process.communicate()
    assert process.returncode == 0
    return peer


@contextlib.contextmanager
def _headers() -> Iterator[dict[str, str]]:
    """Give bcc the same headers as the exporter."""
    with tempfile.TemporaryDirectory(prefix="exporter-bench-") as scratch:
        path = find_headers(None, Path(scratch)).path
        yield {**os.environ, **({} if path is None else {"BCC_KERNEL_SOURCE": str(path)})}
