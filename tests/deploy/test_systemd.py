"""The unit and what is installed beside it: as text, and running under a systemd that is booted for it."""

import re
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.setting_parsers import SETTINGS
from tests.deploy.machine import Machine, booted
from tests.deploy.service import (
    CONFIG,
    FOLDER,
    NAME,
    PROGRAMS,
    UNIT,
    WEB_USER,
    Service,
    Target,
    prepare,
    service,
    target,
)
from tests.product.exporter import until
from tests.product.programs import gc_config

PERF_EVENTS = FOLDER / "perf-events.conf"

# What is in the log of the unit without that capability, and is not with it.
LOST_WITHOUT = {
    "CAP_BPF": "(needs CAP_BPF)",
    "CAP_PERFMON": "(needs CAP_PERFMON)",
    "CAP_SYS_PTRACE": 'msg="no process matches yet" program=gc_total',
    "CAP_DAC_READ_SEARCH": 'msg="attach failed" program=checksums',
    "CAP_SETUID": "os.setuid(",
    "CAP_SETGID": "os.setgroups(",
    "CAP_KILL": "children.terminate(",
}


def settings(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found[key].append(value)
    return found


CAPABILITIES = settings(UNIT)["CapabilityBoundingSet"][0].split()


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with booted() as machine:
        prepare(machine)
        yield machine


@pytest.fixture(scope="module")
def probed(machine: Machine) -> Iterator[Target]:
    with target(machine) as probed:
        yield probed


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    start = settings(UNIT)["ExecStart"][0]
    unit.write_text(UNIT.read_text().replace(start, "/bin/true"))

    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)

    assert (verified.returncode, verified.stderr) == (0, "")


def test_exposure_is_what_the_readme_says(tmp_path: Path) -> None:
    with_drop_in = tmp_path / UNIT.name
    more = settings(PERF_EVENTS)["CapabilityBoundingSet"][0]
    with_drop_in.write_text(UNIT.read_text().replace("CapabilityBoundingSet=", f"CapabilityBoundingSet={more} "))
    readme = (FOLDER / "README.md").read_text()

    assert f"exposure level {exposure(UNIT)}, of 10; with `{PERF_EVENTS.name}` {exposure(with_drop_in)}." in readme


def exposure(unit: Path) -> str:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    analyzed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    [level] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", analyzed)
    return str(level)


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


def test_state_directory_is_the_units_runtime_directory_and_not_writable_by_others() -> None:
    unit = settings(UNIT)

    assert [f"/run/{name}" for name in unit["RuntimeDirectory"]] == [SETTINGS["state-dir"].default]
    assert unit["RuntimeDirectoryMode"] == ["0750"]


def test_web_user_of_the_unit_is_the_one_that_sysusers_makes() -> None:
    lines = (FOLDER / f"sysusers.d/{NAME}.conf").read_text().splitlines()
    users = [line.split()[:2] for line in lines if not line.startswith("#")]

    assert users == [["u", WEB_USER]]
    assert settings(UNIT)["Group"] == [WEB_USER]
    assert f"USERSPACE_EXPORTER_WEB_USER={WEB_USER}" in settings(UNIT)["Environment"]


def test_environment_file_shows_every_setting_with_its_default() -> None:
    lines = (FOLDER / f"{NAME}.env").read_text().splitlines()
    shown = {
        variable.removeprefix("#USERSPACE_EXPORTER_").lower().replace("_", "-"): value
        for variable, _, value in (line.partition("=") for line in lines if line.startswith("#USERSPACE"))
    }
    by_the_unit = dict(line.split("=") for line in settings(UNIT)["Environment"])
    expected = {name: setting.default or "" for name, setting in SETTINGS.items()} | {
        "config": "",
        "probe-config": by_the_unit["USERSPACE_EXPORTER_PROBE_CONFIG"],
        "web-user": by_the_unit["USERSPACE_EXPORTER_WEB_USER"],
    }

    assert shown == expected


@pytest.mark.bpf
def test_service_counts_another_users_calls_exactly_and_goes_on_after_a_reload(
    machine: Machine, probed: Target
) -> None:
    running = service(machine)
    running.control("start")
    running.wait_enabled(probed.pid, "gc_total", "checksums")
    before = running.counted(probed.pid)
    probed.work(1000)
    counted = running.counted(probed.pid)

    machine.write(CONFIG, PROGRAMS + gc_config("more", binary_name="collecting").partition("programs:\n")[2])
    running.control("reload")
    running.wait_enabled(probed.pid, "gc_total", "checksums", "more")
    machine.write(CONFIG, PROGRAMS)
    probed.work(10)

    assert counted == tuple((number or 0) + 1000 for number in before)
    assert running.counted(probed.pid) == tuple((number or 0) + 1010 for number in before)
    running.control("stop")
    assert running.show("Result") == "success"
    assert [text for text in LOST_WITHOUT.values() if text in running.log] == []
    assert "Traceback" not in running.log


@pytest.mark.bpf
def test_a_supervisor_that_hangs_is_replaced_by_the_watchdog(machine: Machine, probed: Target) -> None:
    running = service(machine, "watched", {"WatchdogSec=30": "WatchdogSec=5"})
    running.control("start")
    running.wait_enabled(probed.pid, "gc_total")
    hanging = running.show("MainPID")

    machine.run("kill", f"-{signal.SIGSTOP}", hanging)
    until(lambda: running.show("MainPID") not in (hanging, "0"), "another one runs")
    running.wait_enabled(probed.pid, "gc_total", "checksums")
    before = running.counted(probed.pid)
    probed.work(100)

    assert running.counted(probed.pid) == tuple((number or 0) + 100 for number in before)
    assert "Watchdog timeout" in running.log
    running.control("stop")


def test_each_capability_of_the_unit_is_known_to_be_needed() -> None:
    assert set(CAPABILITIES) == LOST_WITHOUT.keys()


@pytest.mark.bpf
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_unit_has_no_capability_that_it_could_do_without(machine: Machine, probed: Target, capability: str) -> None:
    name = capability.lower().replace("_", "-")
    fewer = " ".join(other for other in CAPABILITIES if other != capability)
    lines = {
        f"CapabilityBoundingSet={' '.join(CAPABILITIES)}": f"CapabilityBoundingSet={fewer}",
        "Restart=on-failure": "Restart=no",
    }
    lacking = service(machine, f"without-{name}", lines)

    lacking.control("start", check=False)
    if capability == "CAP_KILL":
        lacking.control("stop")
    until(lambda: LOST_WITHOUT[capability] in lacking.log, f"what is lost without {capability}; log:\n{lacking.log}")
    lacking.control("stop")


def by_perf_events(machine: Machine, name: str) -> Service:
    main = f"Environment=USERSPACE_EXPORTER_WEB_USER={WEB_USER}"
    lines = {main: f"{main}\nEnvironment=USERSPACE_EXPORTER_ATTACH=perf", "Restart=on-failure": "Restart=no"}
    return service(machine, name, lines)


@pytest.mark.bpf
def test_perf_events_count_exactly_with_the_drop_in_and_do_not_work_without(machine: Machine, probed: Target) -> None:
    without = by_perf_events(machine, "perf-alone")
    without.control("start", check=False)
    with_it = by_perf_events(machine, "perf-allowed")
    machine.write(f"/etc/systemd/system/{with_it.name}.service.d/{PERF_EVENTS.name}", PERF_EVENTS.read_text())
    machine.run("systemctl", "daemon-reload")
    with_it.control("start")
    with_it.wait_enabled(probed.pid, "gc_total", "checksums")
    before = with_it.counted(probed.pid)
    probed.work(100)

    assert "(needs CAP_SYS_ADMIN)" in without.log
    assert with_it.counted(probed.pid) == tuple((number or 0) + 100 for number in before)
    assert "probes are attached by perf events" in with_it.log
    with_it.control("stop")
