"""The shell scripts, without running what they install."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [ROOT / ".ci/run", *(ROOT / "scripts" / name for name in ("demo", "install", "lock", "setup", "test"))]
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="starts a command as nobody")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable_and_parses(script: Path) -> None:
    shell = script.read_text().splitlines()[0].split()[-1].rpartition("/")[2]

    parsed = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)

    assert (parsed.returncode, parsed.stderr) == (0, "")
    assert os.access(script, os.X_OK)


def test_ci_decides_nothing_itself() -> None:
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if not line.startswith("#")]

    assert commands == ['exec "$(dirname "$0")/../scripts/test" "$@"']


@needs_root
def test_setup_names_missing_packages_where_it_may_not_install_them(tmp_path: Path) -> None:
    done = setup(tmp_path, user=NOBODY)

    assert done.returncode == 1
    assert "sudo apt-get install --no-install-recommends ca-certificates python3 python3-bpfcc" in done.stderr


@needs_root
def test_setup_installs_nothing_on_another_system(tmp_path: Path) -> None:
    os_release = tmp_path / "os-release"
    os_release.write_text('ID=ubuntu\nVERSION_ID="24.04"\n')

    done = setup(
        tmp_path, prefix=["unshare", "--mount", "sh", "-c", f'mount --bind {os_release} /etc/os-release && "$@"', "-"]
    )

    assert done.returncode == 1
    assert "sudo apt-get install" in done.stderr
    assert "linux-headers-" in done.stderr


@needs_root
def test_setup_refuses_a_clone_that_the_web_user_cannot_reach(tmp_path: Path) -> None:
    home = tmp_path / "home"
    clone = home / "clone"
    (clone / "scripts").mkdir(parents=True)
    (clone / "scripts/setup").write_bytes((ROOT / "scripts/setup").read_bytes())
    home.chmod(0o700)

    done = subprocess.run(["bash", clone / "scripts/setup"], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "is closed to" in done.stderr
    assert f"sudo mv {clone} /opt/" in done.stderr
    assert not (clone / ".venv").exists()


def test_setup_says_how_it_is_called_when_it_does_not_understand() -> None:
    done = subprocess.run([ROOT / "scripts/setup", "--everything"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "scripts/setup --tests" in done.stderr


def setup(tmp_path: Path, *, user: int = 0, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run setup where dpkg knows of no installed package at all."""
    database = tmp_path / "dpkg"
    database.mkdir()
    (database / "status").touch()
    environment = {"PATH": os.environ["PATH"], "DPKG_ADMINDIR": str(database)}
    for folder in (database, *database.parents[:3]):
        folder.chmod(0o755)
    return subprocess.run(
        [*(prefix or []), ROOT / "scripts/setup"],
        capture_output=True,
        text=True,
        check=False,
        user=user,
        env=environment,
        cwd="/",
    )
