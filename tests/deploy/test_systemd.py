"""The unit and what is installed beside it."""

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.setting_parsers import SETTINGS

FOLDER = Path(__file__).resolve().parents[2] / "systemd"
UNIT = FOLDER / "ebpf-userspace-exporter.service"
WEB_USER = "ebpf-userspace-exporter-web"


def settings(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found[key].append(value)
    return found


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    start = settings(UNIT)["ExecStart"][0]
    unit.write_text(UNIT.read_text().replace(start.split()[0], "/bin/true"))

    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)

    assert (verified.returncode, verified.stderr) == (0, "")


def test_one_dead_process_does_not_end_the_unit_and_a_broken_config_does() -> None:
    unit = settings(UNIT)

    assert unit["OOMPolicy"] == ["continue"]
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert unit["KillMode"] == ["mixed"]


def test_supervisor_alone_speaks_to_systemd() -> None:
    unit = settings(UNIT)

    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_state_directory_is_the_units_runtime_directory_and_not_writable_by_others() -> None:
    unit = settings(UNIT)

    assert unit["RuntimeDirectory"] == ["ebpf-userspace-exporter"]
    assert unit["RuntimeDirectoryMode"] == ["0750"]
    assert "--state-dir /run/ebpf-userspace-exporter" in unit["ExecStart"][0]


def test_headers_and_processes_stay_visible() -> None:
    unit = settings(UNIT)

    assert "ProtectKernelModules" not in unit
    assert "PrivateUsers" not in unit
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["NoNewPrivileges"] == ["yes"]


def test_system_calls_of_probes_are_allowed() -> None:
    assert settings(UNIT)["SystemCallFilter"] == ["@system-service bpf perf_event_open"]


def test_web_user_of_the_unit_is_the_one_that_sysusers_makes() -> None:
    lines = (FOLDER / "sysusers.d/ebpf-userspace-exporter.conf").read_text().splitlines()
    users = [line.split()[:2] for line in lines if not line.startswith("#")]

    assert users == [["u", WEB_USER]]
    assert f"USERSPACE_EXPORTER_WEB_USER={WEB_USER}" in settings(UNIT)["Environment"]


def test_environment_file_names_only_settings_that_exist() -> None:
    lines = (FOLDER / "ebpf-userspace-exporter.env").read_text().splitlines()
    variables = [line.lstrip("#").partition("=")[0] for line in lines if line.startswith("#USERSPACE")]

    names = [variable.removeprefix("USERSPACE_EXPORTER_").lower().replace("_", "-") for variable in variables]

    assert names
    assert set(names) <= SETTINGS.keys()
