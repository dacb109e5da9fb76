"""Processes to be looked at, and a look at them."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.processes import process_table
from ebpf_userspace_exporter.supervisor.selection.evaluate import evaluate
from ebpf_userspace_exporter.supervisor.selection.observation import Observation
from ebpf_userspace_exporter.supervisor.selection.verdict import Outcome, Verdict
from tests.product.programs import PYTHON

NOBODY = 65534
FACTS = (
    "exe",
    "cwd",
    "cmdline",
    "argv0",
    "uid",
    "user",
    "cgroup",
    "systemd_unit",
    "container_id",
    "libraries",
    "ports",
)

# Runs what it is given, line by line, and answers each line when it is done; ends with its standard input.
_OBEDIENT = """
import sys
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Living:
    """A Python that does what it is told."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid

    def do(self, statement: str) -> None:
        """Have it run a line of Python, to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(statement + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def set_title(self, title: str) -> None:
        """Have it write over its command line and environment, as setproctitle does; the pages that follow too."""
        self.do(
            "fields = open('/proc/self/stat', 'rb').read().rpartition(b') ')[2].split(); "
            "first, end = int(fields[45]), int(fields[48]); "
            "mem = open('/proc/self/mem', 'r+b', buffering=0); mem.seek(first); "
            f"mem.write({title.encode()!r}.ljust(end - first, bytes(1))); mem.close()"
        )


@contextlib.contextmanager
def living(
    *arguments: str | bytes,
    name: str = "specimen",
    through: tuple[str | Path, ...] = (),
    environ: Mapping[str, str] | None = None,
    user: int | None = None,
    cwd: Path | None = None,
) -> Iterator[Living]:
    """Run a Python of that comm with those arguments, started by `through`, which must become it by exec."""
    process = subprocess.Popen(
        [*through, PYTHON, "-c", _OBEDIENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], **(environ or {})},
        user=user,
        cwd=cwd,
    )
    try:
        made = Living(process)
        made.do(f"open('/proc/self/comm', 'w').write({name!r})")
        yield made
    finally:
        process.kill()
        process.communicate()


def selector_of(keys: Mapping[str, Any]) -> Selector:
    """Return the selector as a config would have it, where every scalar is text."""
    return Selector.model_validate(_as_text(keys))


def _as_text(value: Any) -> Any:
    match value:
        case dict():
            return {key: _as_text(each) for key, each in value.items()}
        case list():
            return [_as_text(each) for each in value]
    return str(value)


def verdict(keys: Mapping[str, Any], pid: int, *, explain: bool = False) -> Verdict:
    """Look at the processes now and return the verdict on one of them."""
    table = process_table()
    return evaluate(selector_of(keys), table[pid], Observation(table, time.monotonic()), explain=explain)


def outcome(keys: Mapping[str, Any], pid: int) -> Outcome:
    """Look at the processes now and return whether the selector means one of them."""
    return verdict(keys, pid).outcome


def as_nobody(look: Callable[[], object]) -> Any:
    """Return what `look` returns, as JSON would have it, in a process without privileges."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        exit_code = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writing, json.dumps(look()).encode())
            exit_code = 0
        finally:
            os._exit(exit_code)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(answer)


def children_of(pid: int) -> list[int]:
    """Return the pids of its children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
