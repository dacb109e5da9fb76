"""A machine to install things on: systemd as the first process of namespaces of its own, over this system's files."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.product.exporter import until

BOOT = Path(__file__).with_name("boot.sh")
COMMAND_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Machine:
    """It shares this system's network, and nothing else.

    `init` is the pid of its first process out here, `process` the one that has started that.
    """

    process: "subprocess.Popen[bytes]"
    init: int

    @property
    def inside(self) -> list[str]:
        """The beginning of a command that runs what follows in the machine."""
        return ["nsenter", f"--target={self.init}", "--all"]

    def run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine; with `check` it must succeed."""
        done = subprocess.run(
            [*self.inside, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file in the machine; folders are made."""
        command = ["sh", "-c", 'mkdir -p "${0%/*}" && cat >"$0"', path]
        subprocess.run([*self.inside, *command], input=text, text=True, check=True, timeout=COMMAND_SECONDS)

    def read(self, path: str) -> str:
        """Return what a file of the machine holds."""
        return self.run("cat", path).stdout

    def show(self, unit: str, name: str) -> str:
        """Return what systemd says of a unit."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).stdout.strip()

    def log(self, unit: str) -> str:
        """Return what a unit, and systemd about it, has logged."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--unit", unit, "--output=cat", "--no-pager").stdout


@contextlib.contextmanager
def booted() -> Iterator[Machine]:
    """Boot a machine; nothing of it is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="machine-"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", BOOT, folder], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield until(lambda: _if_up(process), f"the machine is up: {folder / 'log'}")
    finally:
        process.kill()  # its child is killed with it, and by that all others
        process.wait()
        _remove_control_group(folder)
        shutil.rmtree(folder)


def _if_up(process: "subprocess.Popen[bytes]") -> Machine | None:
    assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if not children:
        return None
    machine = Machine(process, int(children[0]))
    state = machine.run("systemctl", "is-system-running", check=False).stdout.strip()
    return machine if state == "running" else None


def _remove_control_group(folder: Path) -> None:
    command = 'mount -t cgroup2 cgroup2 "$0/groups" && find "$0/groups/${0##*/}" -depth -type d -exec rmdir {} +'
    until(
        lambda: (
            subprocess.run(
                ["unshare", "--mount", "sh", "-c", command, folder], stderr=subprocess.DEVNULL, check=False
            ).returncode
            == 0
        ),
        "its control group is empty",
    )
