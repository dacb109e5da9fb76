"""What the commands in the reference pages are about: a Python that collects garbage, and its exporter."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.product.exporter import Exporter, exporter, until
from tests.product.programs import PYTHON

PID = "4711"
"""How the pages call the pid of the Python."""

ADDRESS = "127.0.0.1:8080"
"""And where they have the exporter listen."""

SCRIPT = re.compile(r"\bshop(?=\\{0,2}\.py\b)")
"""And its script, also where that is a pattern; here it is one of its own, as there may be other tests at work."""

_SHOP = """
import gc, select, sys
print(flush=True)
while not select.select([sys.stdin], [], [], 0.05)[0]:
    gc.collect(0)
"""
_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Scene:
    """A folder with files of the pages, the pid of a Python, and an exporter."""

    folder: Path
    pid: int
    exporter: Exporter

    def as_here(self, text: str) -> str:
        """Return the text of a page with the names and numbers that things have here."""
        return re.sub(rf"\b{PID}\b", str(self.pid), _own_script(text)).replace(
            ADDRESS, f"127.0.0.1:{self.exporter.port}"
        )

    def run(self, script: str) -> str:
        """Return what a shell writes on both outputs for commands as a page has them."""
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "USERSPACE_EXPORTER_STATE_DIR": str(self.exporter.state_dir),
        }
        done = subprocess.run(
            ["bash", "-c", re.sub(r"\bsudo ", "", self.as_here(script))],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        return done.stdout


@contextlib.contextmanager
def scene(files: Mapping[str, str]) -> Iterator[Scene]:
    """Run `python3 shop.py --role=web`, and an exporter over the file `shop.yaml`."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docs-")))
        for name, text in {**files, "shop.py": _SHOP}.items():
            (folder / _own_script(name)).write_text(_own_script(text))
        pid = stack.enter_context(_python(folder))
        running = stack.enter_context(exporter(folder / "shop.yaml"))
        until(lambda: running.values("gc_total", pid=pid), f"collections are counted; log:\n{running.log}")
        yield Scene(folder, pid, running)


@contextlib.contextmanager
def _python(folder: Path) -> Iterator[int]:
    process = subprocess.Popen(
        ["python3", _own_script("shop.py"), "--role=web"],
        executable=PYTHON,
        cwd=folder,
        env={**os.environ, "APP": "shop"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def _own_script(text: str) -> str:
    return SCRIPT.sub(f"shop{os.getpid()}", text)
