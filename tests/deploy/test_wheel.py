"""What an install puts into site-packages."""

import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("config", "supervisor", "web", "worker")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[PurePosixPath]:
    """The files in a wheel of a clean copy: a build in place would find what earlier ones left."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        source, copy = ROOT / name, folder / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            copy.symlink_to(source.readlink())
        elif source.exists():
            copy.write_bytes(source.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "--quiet",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run([*command, "--no-build-isolation", "--wheel-dir", folder / "dist", folder / "source"], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {PurePosixPath(name) for name in archive.namelist()}


def test_wheel_has_one_top_level_name(names: set[PurePosixPath]) -> None:
    top = {name.parts[0] for name in names}

    assert {name for name in top if not name.endswith(".dist-info")} == {"ebpf_userspace_exporter"}
    assert len(top) == 2


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_holds_every_module(names: set[PurePosixPath], package: str) -> None:
    modules = {
        PurePosixPath("ebpf_userspace_exporter") / path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")
    }

    assert modules <= names


def test_wheel_tells_type_checkers_that_it_has_types(names: set[PurePosixPath]) -> None:
    assert PurePosixPath("ebpf_userspace_exporter/py.typed") in names
