"""The exporter as a service of a machine: by the unit, or one made from it, with the code of this clone."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.machine import Machine
from tests.product.exporter import REPOSITORY, Exporter, free_port, series, until
from tests.product.programs import PYTHON, gc_config

FOLDER = REPOSITORY / "systemd"
NAME = "ebpf-userspace-exporter"
UNIT = FOLDER / f"{NAME}.service"
WEB_USER = f"{NAME}-web"
CONFIG = f"/etc/{NAME}/programs.yaml"
TARGET = "collecting"  # the comm of what is probed
LIBRARY = "/var/lib/private-of-nobody/libz.so.1"

# Collects garbage, and calls into a library of its own, as often as each line of stdin says.
_PROGRAM = f"""
import ctypes, gc, os, sys
gc.disable()
crc32 = ctypes.CDLL({LIBRARY!r}).crc32
print(os.getpid(), flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        gc.collect(0)
        crc32(0, None, 0)
    print(flush=True)
"""

PROGRAMS = (
    gc_config(binary_name=TARGET)
    + f"""
  - name: checksums
    metrics:
      counters:
        - name: checksums_total
          help: Calls of crc32
          table: calls
          labels: [{{name: number, size: 4, decoders: [{{name: uint}}]}}]
    uprobes:
      libz.so.1:crc32: on_call
    attachment:
      binary_name: {TARGET}
    code: |
      BPF_ARRAY(calls, u64, 1);
      int on_call(struct pt_regs *ctx) {{
          calls.atomic_increment(0);
          return 0;
      }}
"""
)


@dataclass(frozen=True, slots=True)
class Target:
    """A program of nobody's; `pid` is the one in the machine."""

    process: "subprocess.Popen[str]"
    pid: int

    def work(self, times: int) -> None:
        """Have it collect and call so often; return when it has."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "\n"


@dataclass(frozen=True, slots=True)
class Service:
    """A service of a machine; `name` is the unit's, without its ending."""

    machine: Machine
    name: str
    port: int

    @property
    def web(self) -> Exporter:
        """Return who answers over HTTP; it has neither folder nor log here."""
        return Exporter(Path("/nonexistent"), self.port, self.machine.process)

    def control(self, verb: str, *, check: bool = True) -> str:
        """Run systemctl for it; return what it says on stderr."""
        return self.machine.run("systemctl", verb, self.name, check=check).stderr

    def show(self, name: str) -> str:
        """Return what systemd says of it."""
        return self.machine.show(self.name, name)

    @property
    def log(self) -> str:
        return self.machine.log(self.name)

    def is_enabled(self, program: str, pid: int) -> bool:
        """Whether the program is attached to that process, by a scrape; False too where nobody answers."""
        try:
            return series("enabled_programs", name=program, pid=pid) in self.web.scrape()
        except OSError:
            return False

    def wait_enabled(self, pid: int, *programs: str) -> None:
        """Wait until the programs are attached to that process."""
        try:
            until(lambda: all(self.is_enabled(program, pid) for program in programs), f"{programs} attached to {pid}")
        except AssertionError as error:
            raise AssertionError(f"{error}; log:\n{self.log}") from None

    def counted(self, pid: int) -> tuple[float | None, float | None]:
        """Return how many collections and how many checksums of that process a scrape shows."""
        samples = self.web.scrape()
        collections = samples.get(series("gc_total", gen=0, pid=pid))
        return collections, samples.get(series("checksums_total", number=0, pid=pid))


def prepare(machine: Machine) -> None:
    """Put everything in place that the unit stands on: the web's user, the folder of the config, this clone's code."""
    machine.run("systemd-sysusers", FOLDER / f"sysusers.d/{NAME}.conf")
    machine.run("systemd-tmpfiles", "--create", FOLDER / f"tmpfiles.d/{NAME}.conf")
    machine.run("mkdir", "-p", f"/opt/{NAME}")
    machine.run("ln", "-s", REPOSITORY / ".venv", f"/opt/{NAME}/current")
    machine.write(CONFIG, PROGRAMS)


def service(machine: Machine, name: str = NAME, replaced: Mapping[str, str] | None = None) -> Service:
    """Make a service of the unit, under that name and with these lines replaced, and leave it stopped."""
    port = free_port()
    text = UNIT.read_text()
    settings = {"LISTEN_ADDRESS": f"127.0.0.1:{port}", "STATE_DIR": f"/run/{name}"}
    lines = {
        f"EnvironmentFile=-/etc/default/{NAME}": "\n".join(
            f"Environment=USERSPACE_EXPORTER_{key}={value}" for key, value in settings.items()
        ),
        f"RuntimeDirectory={NAME}": f"RuntimeDirectory={name}",
        **(replaced or {}),
    }
    for line, other in lines.items():
        assert text.count(f"{line}\n") == 1, line
        text = text.replace(f"{line}\n", f"{other}\n")
    machine.write(f"/etc/systemd/system/{name}.service", text)
    # The code is where this clone is, which may be a place that the unit hides.
    visible = f"[Service]\nBindReadOnlyPaths={REPOSITORY}\nProtectHome=tmpfs\n"
    machine.write(f"/etc/systemd/system/{name}.service.d/clone.conf", visible)
    machine.run("systemctl", "daemon-reload")
    return Service(machine, name, port)


@contextlib.contextmanager
def target(machine: Machine) -> Iterator[Target]:
    """Run what the programs probe in the machine, with its library in a folder that only its user may enter."""
    install = 'install -d -o nobody -m 700 "${0%/*}" && cp /usr/lib/*/libz.so.1 "$0"'
    machine.run("sh", "-c", install, LIBRARY)
    machine.run("ln", "-sfn", PYTHON, f"/usr/local/bin/{TARGET}")
    command = ["setpriv", "--reuid=nobody", "--clear-groups", f"/usr/local/bin/{TARGET}", "-c", _PROGRAM]
    process = subprocess.Popen(
        [*machine.inside, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield _settled(process)
    finally:
        process.kill()
        process.communicate()


def _settled(process: "subprocess.Popen[str]") -> Target:
    """Wait until it has said its number."""
    assert process.stdout is not None
    return Target(process, int(process.stdout.readline()))
