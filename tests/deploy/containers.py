"""A container engine with a store of its own, and in it the exporter's image and one of an application."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.product.exporter import REPOSITORY, Response, Samples, samples_of

IMAGE = "registry.example/ebpf-userspace-exporter:0.1.0"
APP_IMAGE = "registry.example/gunicorn-app:1.0.0"
STEP_SECONDS = 600
COMMANDS = ("podman", "runc", "mmdebstrap", "iptables", "ip")

# What bookworm-slim is: Debian's essential packages and apt, without documents.
_BASE = "docker.io/library/debian:bookworm-slim"
_SLIM = ("path-exclude=/usr/share/doc/*", "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*")
_MERGED_USR = ("--include=usr-is-merged", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt:/usr/local/share/ca-certificates/machine.crt:ro"

_RUNTIME = Path(__file__).with_name("runtime.py")
_APP = Path(__file__).with_name("app.Dockerfile")


@dataclass(frozen=True, slots=True)
class Container:
    """A running container; `pid` is its first process's, out here."""

    name: str
    pid: int

    def get(self, port: int, path: str) -> bytes:
        """Ask over HTTP from within its network, which reaches nothing else; the answer must be a good one."""
        command = ["nsenter", f"--target={self.pid}", "--net", "curl", "--silent", "--show-error", "--fail"]
        return subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, check=True).stdout

    def scrape(self) -> Samples:
        """Return every sample of a scrape of the exporter in it."""
        return samples_of(Response(200, {}, self.get(8080, "/metrics"), 0))


@dataclass(frozen=True, slots=True)
class Engine:
    """podman with a store in a folder; `process` is one of mount and network namespaces in which all of it stays."""

    folder: Path
    process: "subprocess.Popen[str]"

    def podman(self, *arguments: str | Path, network: bool = False, stdin: str = "") -> str:
        """Run a podman command, which must succeed; return what it prints. With `network` it reaches others."""
        namespaces = [f"--target={self.process.pid}", "--mount", *([] if network else ["--net"])]
        stores = [f"--{name}={self.folder}/{name}" for name in ("root", "runroot", "tmpdir", "network-config-dir")]
        done = subprocess.run(
            ["nsenter", *namespaces, "podman", *stores, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=STEP_SECONDS,
            env={**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")},
        )
        assert done.returncode == 0, f"podman {arguments}:\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
        return done.stdout

    def container(self, name: str) -> Container:
        """Return a container that runs."""
        state = json.loads(self.podman("inspect", "--format={{json .State}}", name))
        assert state["Running"], self.podman("logs", name)
        return Container(name, state["Pid"])


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """Make a store with both images; nothing of it is left afterwards."""
    missing = [command for command in COMMANDS if not shutil.which(command)]
    assert not missing, f"{missing} missing: scripts/setup --tests installs them"
    folder = Path(tempfile.mkdtemp(prefix="containers-"))
    limits = 'default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]'
    engine = f'[engine]\nruntime = "ours"\n[engine.runtimes]\nours = ["{_RUNTIME}"]\n'
    (folder / "containers.conf").write_text(f"[containers]\n{limits}\n{engine}")
    process = subprocess.Popen(
        ["unshare", "--mount", "--net", "sh", "-c", "ip link set lo up && echo && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    made = Engine(folder, process)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        _make_base(made)
        _build(made)
        yield made
        made.podman("pod", "rm", "--all", "--force", "--time=0")
        made.podman("rm", "--all", "--force", "--time=0", "--depend")
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder)


def _make_base(made: Engine) -> None:
    """Make the image that the Dockerfile starts from out of Debian's packages; no registry is asked."""
    archive = made.folder / "base.tar"
    options = [f"--dpkgopt={option}" for option in ("force-unsafe-io", *_SLIM)]
    sources = [_SOURCES] if _SOURCES.exists() else []
    command = ["mmdebstrap", "--quiet", "--variant=minbase", *_MERGED_USR, *options, "bookworm"]
    done = subprocess.run(
        [*command, archive, *sources],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=STEP_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    made.podman("import", archive, _BASE)
    archive.unlink()


def _build(made: Engine) -> None:
    options = ["--layers=false", "--network=host", "--format=docker", "--pull=never"]
    certificates = f"--volume={_CERTIFICATES}"
    made.podman("build", *options, "--jobs=2", certificates, f"--tag={IMAGE}", REPOSITORY, network=True)
    folder = REPOSITORY / "examples/gunicorn-gc"
    made.podman("build", *options, f"--file={_APP}", f"--tag={APP_IMAGE}", folder)
