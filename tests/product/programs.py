"""Real programs to probe, each of which knows its own count."""

import contextlib
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.product.exporter import EXAMPLES, comm, free_port, until

PYTHON = os.path.realpath("/usr/bin/python3")  # Debian's has USDT probes

# Answers each line on stdin: "gc N" collects the youngest generation N times, "stats" does nothing; either way it
# answers with what gc.get_stats() counted so far.
_GC_TARGET = """
import gc, json, sys
gc.disable()
for line in sys.stdin:
    command, *count = line.split()
    for _ in range(int(count[0]) if count else 0):
        gc.collect(0)
    print(json.dumps([generation["collections"] for generation in gc.get_stats()]), flush=True)
"""


@dataclass(slots=True)
class PythonTarget:
    """A Python that collects garbage when told to, and only then."""

    process: "subprocess.Popen[str]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def collect(self, times: int) -> list[int]:
        """Collect the youngest generation; return the collections of each generation since the process began."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"gc {times}\n")
        self.process.stdin.flush()
        answer: list[int] = json.loads(self.process.stdout.readline())
        return answer


@contextlib.contextmanager
def python_target(name: str) -> Iterator[PythonTarget]:
    """Run a Python whose comm is `name`; it has settled when this begins."""
    code = f"open('/proc/self/comm', 'w').write({name!r})\n{_GC_TARGET}"
    process = subprocess.Popen([PYTHON, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: comm(process.pid) == name[:15], "target has its name")
        yield PythonTarget(process)
    finally:
        process.kill()
        process.communicate()


def gc_config(name: str = "gc_total", *, binary_name: str) -> str:
    """Return a config that counts collections by generation, for processes of that comm."""
    return f"""
programs:
  - name: {name}
    metrics:
      counters:
        - name: {name}
          help: Total number of gc events
          table: gc_counts
          labels:
            - name: gen
              size: 8
              decoders:
                - name: uint
    usdt:
      gc__start: trace_gc__start
    attachment:
      binary_name: {binary_name}
    code: |
      struct gc_event_t {{
          u64 gen;
      }};
      BPF_HASH(gc_counts, struct gc_event_t);
      int trace_gc__start(struct pt_regs *ctx) {{
          struct gc_event_t e = {{}};
          int gen = 0;
          bpf_usdt_readarg(1, ctx, &gen);
          e.gen = gen;
          gc_counts.increment(e);
          return 0;
      }}
"""


@dataclass(frozen=True, slots=True)
class GcStats:
    """What a worker of the example app says of its collector, by generation."""

    collections: list[int]
    pause_seconds: list[float]


@dataclass(slots=True)
class Gunicorn:
    """Debian's gunicorn with the example app; `workers` are its workers' pids."""

    process: "subprocess.Popen[bytes]"
    port: int
    workers: list[int]

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            content: bytes = answer.read()
        return content

    def stats(self) -> dict[int, GcStats]:
        """Ask until every worker has answered; return what each says of itself by its pid."""
        seen: dict[int, GcStats] = {}
        deadline = time.monotonic() + 60
        while len(seen) < len(self.workers):
            assert time.monotonic() < deadline, f"only {sorted(seen)} answered"
            answer = json.loads(self.get("/stats"))
            seen[answer["pid"]] = GcStats(answer["collections"], answer["pause_seconds"])
        return seen


@contextlib.contextmanager
def gunicorn_app(workers: int) -> Iterator[Gunicorn]:
    """Run Debian's gunicorn over the example app."""
    port = free_port()
    folder = EXAMPLES / "gunicorn-gc"
    command = ["/usr/bin/gunicorn", f"--pythonpath={folder}", f"--workers={workers}", f"--bind=127.0.0.1:{port}"]
    process = subprocess.Popen([*command, "app:app"], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pids = until(lambda: _children_if(process.pid, workers), "gunicorn has its workers")
        app = Gunicorn(process, port, pids)
        until(lambda: _answers(app), "gunicorn answers")
        yield app
    finally:
        process.terminate()
        process.wait(20)


def _children_if(pid: int, count: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children if len(children) == count and all(comm(child) == "gunicorn" for child in children) else []


def _answers(app: Gunicorn) -> bool:
    try:
        return bool(app.get("/stats"))
    except OSError:
        return False
