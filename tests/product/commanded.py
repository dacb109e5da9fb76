"""A real Python to probe: it executes, forks, renames itself and exits when told to, and knows its own count."""

import contextlib
import json
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.product.exporter import DEADLINE_SECONDS
from tests.product.programs import PYTHON

PROGRAM = Path(__file__).with_name("commanded_program.py")


@dataclass(slots=True)
class Commanded:
    """A running one; `pid` is the number that it sees itself, `launched` the process that was started here."""

    launched: "subprocess.Popen[bytes]"
    pid: int = 0

    def settle(self) -> int:
        """Wait until it takes commands; return its own count of collections."""
        greeting = self._read()
        self.pid = greeting["pid"]
        return int(greeting["collections"])

    def do(self, command: str, *arguments: object) -> Any:
        """Give a command of commanded_program.py and return its answer."""
        self.send(command, *arguments)
        return self._read()

    def send(self, command: str, *arguments: object) -> None:
        """Give a command that is not answered."""
        assert self.launched.stdin is not None
        self.launched.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        self.launched.stdin.flush()

    def execute(self, command: str = "execute", argv: Sequence[str] = ()) -> int:
        """Have it execute itself or `argv`, which must be such a program too; return its count after that."""
        self.send(command, argv)
        return self.settle()

    def exit_after(self, collections: int) -> None:
        """Have it collect so often and exit at once; return when it is gone and reaped."""
        self.send("collect_and_exit", collections)
        self.launched.wait(DEADLINE_SECONDS)

    def _read(self) -> Any:
        assert self.launched.stdout is not None
        ready, _, _ = select.select([self.launched.stdout], [], [], DEADLINE_SECONDS)
        line = self.launched.stdout.readline() if ready else b""
        assert line, "the program does not answer"
        return json.loads(line)


@contextlib.contextmanager
def named_python(name: str) -> Iterator[str]:
    """Make a link to Debian's Python: who executes it has the comm `name` from then on, with no moment in between."""
    folder = Path(tempfile.mkdtemp(prefix="named-python-"))
    try:
        (folder / name).symlink_to(PYTHON)
        yield str(folder / name)
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def commanded(name: str) -> Iterator[Commanded]:
    """Run one whose comm is `name`; it takes commands when this begins.

    It takes the name then: what it collects before, as Python starts, is nobody's, however soon it would be attached.
    """
    with named_python(name) as python, launched([python, str(PROGRAM)], executable=PYTHON) as target:
        target.settle()
        target.do("rename", name)
        yield target


@contextlib.contextmanager
def launched(command: Sequence[str], executable: str | None = None) -> Iterator[Commanded]:
    """Run a command that is or becomes such a program; it and its children are gone afterwards."""
    # Unbuffered: what select() says of the descriptor is then all that there is.
    process = subprocess.Popen(command, executable=executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        yield Commanded(process, process.pid)
    finally:
        process.kill()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()  # the end for one that was not started by us but by what we have killed
        process.wait()
