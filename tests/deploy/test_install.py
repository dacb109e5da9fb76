"""scripts/install on a machine of its own: first, again, as an upgrade, as one that fails, and away again."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.deploy.machine import Machine, booted
from tests.deploy.service import CONFIG, NAME, PROGRAMS, WEB_USER, Service, Target, target
from tests.product.exporter import REPOSITORY, free_port

pytestmark = pytest.mark.bpf

CLONE = "/srv/clone"
CLONED = (
    *("LICENSE", "README.md", "pyproject.toml", "requirements.lock", "requirements-build.lock"),
    *("config", "examples", "scripts", "src", "supervisor", "systemd", "web", "worker"),
)
DEFAULTS = f"/etc/default/{NAME}"
PLACES = ("/etc", "/opt", "/usr/local")

# In the place of scripts/setup: a release in an instant, which has this clone's commands, but starts in its own way.
RELEASE_THAT = f"""#!/bin/sh
mkdir -p "$2/bin"
ln -s /usr/bin/python3 "$2/bin/python"
printf '#!/bin/sh\\n[ $# -gt 0 ] || {{start}}\\nexec {REPOSITORY}/.venv/bin/{NAME} "$@"\\n' >"$2/bin/{NAME}"
chmod +x "$2/bin/{NAME}"
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A machine with a clone; `untouched` is what `files` was at first."""

    machine: Machine
    service: Service
    untouched: set[str] = field(default_factory=set)

    def install(self, *arguments: str, fails: bool = False) -> str:
        """Run scripts/install; return what it says."""
        done = self.machine.run(f"{CLONE}/scripts/install", *arguments, check=False)
        assert done.returncode == int(fails), done.stderr
        return done.stderr

    def set_version(self, version: str) -> None:
        """Make the clone one of that version."""
        self.machine.run("sed", "-i", f's/^version = .*/version = "{version}"/', f"{CLONE}/pyproject.toml")

    @contextlib.contextmanager
    def newer(self, setup: str) -> Iterator[None]:
        """Have the clone be of another version, made into a release by that script, for a while."""
        self.machine.run("cp", "-a", CLONE, f"{CLONE}.kept")
        self.machine.write(f"{CLONE}/scripts/setup", setup)
        self.set_version("9.9.9")
        yield
        self.machine.run("rm", "-r", CLONE)
        self.machine.run("mv", f"{CLONE}.kept", CLONE)

    def versions(self) -> list[str]:
        """Return the versions of the releases that are there."""
        releases = self.machine.run("ls", f"/opt/{NAME}/releases").stdout.split()
        return [release.partition("-")[0] for release in releases]

    def pid(self) -> str:
        """Return the number of the supervisor."""
        return self.service.show("MainPID")

    def files(self) -> set[str]:
        """Return all files and links of our name that are where an install puts some."""
        ours = ("-path", f"*{NAME}*", "-not", "-name", "*.pyc", "-not", "-type", "d")
        return set(self.machine.run("find", *PLACES, *ours, check=False).stdout.splitlines())


@contextlib.contextmanager
def cloned() -> Iterator[Place]:
    with booted() as machine:
        machine.run("mkdir", CLONE)
        machine.run("cp", "-R", *(REPOSITORY / name for name in CLONED), CLONE)
        place = Place(machine, Service(machine, NAME, free_port()))
        place.untouched.update(place.files())
        yield place


@pytest.fixture(scope="module")
def installed() -> Iterator[Place]:
    """A machine where it is installed, over a config and settings that were there before."""
    with cloned() as place:
        place.machine.write(CONFIG, PROGRAMS)
        place.machine.write(DEFAULTS, f"USERSPACE_EXPORTER_LISTEN_ADDRESS=127.0.0.1:{place.service.port}\n")
        place.set_version("1.0.0")
        place.install()
        yield place


@pytest.fixture(scope="module")
def probed(installed: Place) -> Iterator[Target]:
    with target(installed.machine) as probed:
        yield probed


def counts_exactly(service: Service, probed: Target) -> bool:
    service.wait_enabled(probed.pid, "gc_total", "checksums")
    before = service.counted(probed.pid)
    probed.work(100)
    return service.counted(probed.pid) == tuple((number or 0) + 100 for number in before)


def test_installed_service_runs_from_its_release_alone_and_counts_exactly(installed: Place, probed: Target) -> None:
    verified = installed.machine.run("systemd-analyze", "verify", f"{NAME}.service")
    packages = installed.machine.run("sh", "-c", f"ls -d /opt/{NAME}/releases/*/lib/python3*/site-packages/*")

    assert verified.stderr == ""
    assert installed.service.show("UnitFileState") == "enabled"
    assert counts_exactly(installed.service, probed)
    assert "editable" not in packages.stdout
    assert installed.machine.run(f"/usr/local/bin/{NAME}", "status").returncode == 0


def test_same_release_again_leaves_it_running(installed: Place) -> None:
    before = installed.pid()

    said = installed.install()

    assert "is installed already, and runs" in said
    assert installed.pid() == before


def test_release_that_cannot_be_made_leaves_the_one_before_running(installed: Place) -> None:
    before, files = installed.pid(), installed.files()

    with installed.newer("#!/bin/sh\nmkdir -p $2; echo no network >&2; exit 1\n"):
        said = installed.install(fails=True)

    assert "no network" in said
    assert "stays installed" in said
    assert (installed.pid(), installed.files()) == (before, files)


def test_release_that_does_not_take_the_config_leaves_the_one_before_running(installed: Place) -> None:
    before, files = installed.pid(), installed.files()

    installed.machine.write(CONFIG, "programs: [{nane: x}]\n")
    with installed.newer(RELEASE_THAT.format(start="exit 3")):
        said = installed.install(fails=True)
    installed.machine.write(CONFIG, PROGRAMS)

    assert re.search(rf"9\.9\.9-\w+ does not take {CONFIG}", said)
    assert (installed.pid(), installed.files()) == (before, files)


def test_release_that_does_not_start_gives_way_to_the_one_before(installed: Place, probed: Target) -> None:
    before, files = installed.pid(), installed.files()

    with installed.newer(RELEASE_THAT.format(start="{ echo broken; exit 3; }")):
        said = installed.install(fails=True)

    assert "broken" in said
    assert "does not start" in said
    assert installed.pid() not in (before, "0")
    assert installed.files() == files
    assert counts_exactly(installed.service, probed)


def test_upgrade_takes_the_place_of_the_release_before_and_keeps_config_and_settings(
    installed: Place, probed: Target
) -> None:
    before, kept = installed.pid(), [installed.machine.read(path) for path in (CONFIG, DEFAULTS)]

    installed.set_version("2.0.0")
    installed.install()

    assert installed.versions() == ["2.0.0"]
    assert installed.pid() not in (before, "0")
    assert [installed.machine.read(path) for path in (CONFIG, DEFAULTS)] == kept
    assert counts_exactly(installed.service, probed)


def test_where_no_systemd_runs_it_is_installed_and_left_to_be_started() -> None:
    with cloned() as place:
        place.machine.write(f"{CLONE}/scripts/setup", RELEASE_THAT.format(start="exit 3"))
        hidden = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs tmpfs /run && exec {CLONE}/scripts/install"]
        said = place.machine.run(*hidden).stderr

        assert "no systemd runs here, so nothing was started" in said
        assert place.service.show("ActiveState") == "inactive"
        assert place.service.show("UnitFileState") == "enabled"
        assert place.machine.read(CONFIG) == (REPOSITORY / "examples/gunicorn-gc/config.yaml").read_text()


def test_remove_ends_the_service_and_takes_all_away_but_config_and_settings(installed: Place) -> None:
    running = installed.pid()

    installed.install("--remove")

    assert installed.files() - installed.untouched == {CONFIG, DEFAULTS}
    assert installed.machine.run("ps", "-p", running, check=False).returncode == 1
    assert WEB_USER not in installed.machine.read("/etc/passwd")
