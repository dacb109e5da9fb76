"""Rules the Dockerfile keeps; test_image.py builds it."""

import re
import tomllib
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor.webserver import DEFAULT_USER

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def instructions() -> list[str]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_all_packages_from_pypi_are_pinned_by_hash(instructions: list[str]) -> None:
    downloads = [
        command
        for line in instructions
        if line.startswith("RUN")
        for command in line.split("&&")
        if "pip" in command and " install " in command and "--no-index" not in command
    ]

    assert [command for command in downloads if "venv/bin/pip" in command]
    assert all("--require-hashes" in command for command in downloads if "apt-get" not in command)


def test_last_stage_has_no_compiler_and_no_pip(instructions: list[str]) -> None:
    stages = [number for number, line in enumerate(instructions) if line.startswith("FROM")]
    last = " ".join(instructions[stages[-1] :])

    assert len(stages) == 2
    assert "linux-headers-$" not in last
    assert "-venv" not in last
    assert "pip " not in last
    assert "--without-pip" in " ".join(instructions)


def test_image_stops_reports_health_and_runs_the_web_as_its_own_user(instructions: list[str]) -> None:
    text = "\n".join(instructions)

    assert "STOPSIGNAL SIGTERM" in text
    assert "EXPOSE 8080" in text
    assert "/-/healthy" in text
    assert re.search(rf"useradd .*{DEFAULT_USER}", text)
    assert 'ENTRYPOINT ["/opt/ebpf-userspace-exporter/bin/ebpf-userspace-exporter"]' in text


def test_everything_copied_is_let_through_by_dockerignore(instructions: list[str]) -> None:
    copied = {
        source.rstrip("/")
        for line in instructions
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    }
    let_through = {
        line.removeprefix("!").rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }

    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)


def test_version_is_that_of_the_package(instructions: list[str]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert f'org.opencontainers.image.version="{version}"' in "\n".join(instructions)
