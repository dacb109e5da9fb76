"""Where settings come from, which source wins, and how each names itself when it is wrong."""

import os
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.address import ListenAddress, parse_address
from ebpf_userspace_exporter.config.durations import parse_duration
from ebpf_userspace_exporter.config.errors import ConfigError
from ebpf_userspace_exporter.config.setting_parsers import SETTINGS
from ebpf_userspace_exporter.config.settings import Settings, load_settings, unknown_variables


def load(
    flags: dict[str, str | None] | None = None, environment: dict[str, str] | None = None, *, trusted: bool = False
) -> Settings:
    return load_settings({"probe-config": "p.yaml", **(flags or {})}, environment or {}, trusted=trusted)


def refusal(flags: dict[str, str | None] | None = None, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags, environment)
    return str(caught.value).split("\n")


def test_every_default_is_valid() -> None:
    assert load() == Settings(
        probe_config=Path("p.yaml"),
        reload_on_change=False,
        config=None,
        listen=ListenAddress("", 8080),
        metrics_path="/metrics",
        state_dir=Path("/run/ebpf-userspace-exporter"),
        scan_interval=1.0,
        rescan_interval=10.0,
        exit_grace=60.0,
        kernel_headers=None,
        web_user=None,
        log_level="info",
        log_format="logfmt",
    )


@pytest.mark.parametrize(
    ("flag", "variable", "in_file", "expected"),
    [
        ("/flag", "/variable", "/file", "/flag"),
        (None, "/variable", "/file", "/variable"),
        (None, "", "/file", "/file"),
        (None, None, None, "/metrics"),
        ("/flag", "variable", "file", "/flag"),
    ],
    ids=["flag first", "then the environment", "then the file", "then the default", "what is beaten is not judged"],
)
def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    tmp_path: Path, flag: str | None, variable: str | None, in_file: str | None, expected: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("" if in_file is None else f"metrics-path: {in_file}\n")
    environment = {} if variable is None else {"USERSPACE_EXPORTER_METRICS_PATH": variable}

    settings = load({"metrics-path": flag, "config": str(file)}, environment)

    assert settings.metrics_path == expected


def test_every_setting_may_come_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "probe-config: other.yaml\n"
        "reload-on-change: true\n"
        "listen-address: :9000\n"
        "metrics-path: /\n"
        "state-dir: /tmp/state\n"
        "scan-interval: 500ms\n"
        "exit-grace: 1m30s\n"
        f"kernel-headers: {tmp_path}\n"
        "web-user: www-data\n"
        "log-level: debug\n"
        "log-format: json\n"
    )

    settings = load_settings({"config": str(file)}, {}, trusted=False)

    assert settings == Settings(
        probe_config=Path("other.yaml"),
        reload_on_change=True,
        config=file,
        listen=ListenAddress("", 9000),
        metrics_path="/",
        state_dir=Path("/tmp/state"),
        scan_interval=0.5,
        rescan_interval=10.0,
        exit_grace=90.0,
        kernel_headers=tmp_path,
        web_user="www-data",
        log_level="debug",
        log_format="json",
    )


def test_log_level_and_format_may_be_written_in_any_case() -> None:
    settings = load({"log-level": "WARNING"}, {"USERSPACE_EXPORTER_LOG_FORMAT": "Json"})

    assert (settings.log_level, settings.log_format) == ("warning", "json")


def test_every_setting_may_come_from_the_environment() -> None:
    settings = load_settings(
        dict.fromkeys(SETTINGS),
        {"USERSPACE_EXPORTER_PROBE_CONFIG": "e.yaml", "USERSPACE_EXPORTER_LISTEN_ADDRESS": "[::1]:1"},
        trusted=False,
    )

    assert (settings.probe_config, settings.listen) == (Path("e.yaml"), ListenAddress("::1", 1))


def test_variables_that_look_like_settings_and_are_none_are_told_once_each() -> None:
    known = [f"USERSPACE_EXPORTER_{name.upper().replace('-', '_')}" for name in ("config", *SETTINGS)]
    ours = [f"USERSPACE_EXPORTER_{name}" for name in ("ATTACH", "WEB_STATE_DIR", "WEB_METRICS_PATH")]
    unknown = ["USERSPACE_EXPORTER_XYZZY", "USERSPACE_EXPORTER_LISTEN_ADRESS", "USERSPACE_EXPORTER_log_level"]

    lines = unknown_variables(dict.fromkeys([*known, *ours, *unknown, "HOME", "LISTEN_ADDRESS"], "1"))

    assert lines == (
        'USERSPACE_EXPORTER_LISTEN_ADRESS: unknown setting, ignored; did you mean "USERSPACE_EXPORTER_LISTEN_ADDRESS"?',
        "USERSPACE_EXPORTER_XYZZY: unknown setting, ignored; --help names the settings",
        'USERSPACE_EXPORTER_log_level: unknown setting, ignored; did you mean "USERSPACE_EXPORTER_LOG_LEVEL"?',
    )


def test_the_file_in_the_home_is_read_where_it_is_there(tmp_path: Path) -> None:
    assert load(environment={"HOME": str(tmp_path)}).config is None
    file = tmp_path / ".ebpf-userspace-exporter.yaml"
    file.write_text("log-level: error\n")

    assert load(environment={"HOME": str(tmp_path)}).log_level == "error"
    assert load(environment={"HOME": "home"}).log_level == "info"


@pytest.mark.parametrize("environment", [{}, {"USERSPACE_EXPORTER_CONFIG": "/nowhere.yaml"}], ids=["flag", "variable"])
def test_a_settings_file_that_is_named_must_exist(environment: dict[str, str]) -> None:
    assert refusal({"config": None if environment else "/nowhere.yaml"}, environment) == ["/nowhere.yaml: no such file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")
def test_a_settings_file_of_another_user_is_refused_as_root(tmp_path: Path) -> None:
    file = tmp_path / ".ebpf-userspace-exporter.yaml"
    file.touch()
    os.chown(file, 65534, 0)

    with pytest.raises(ConfigError, match="is not trusted"):
        load(environment={"HOME": str(tmp_path)}, trusted=True)


def test_an_error_names_the_source_and_all_errors_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "log-format: xml\nlisten-adress: :80\nexit-grace: [1]\nexit-grace: 1s\nkernel-headers: /nowhere\nstate-dir:\n"
    )

    lines = refusal(
        {"config": str(file), "listen-address": "8080", "metrics-path": ""}, {"USERSPACE_EXPORTER_SCAN_INTERVAL": "0"}
    )

    assert lines == [
        '--listen-address: expected HOST:PORT, got "8080"',
        '--metrics-path: expected a path that starts with /, got ""',
        'USERSPACE_EXPORTER_SCAN_INTERVAL: expected from 0.01 to 3600 seconds, got "0"',
        f'{file}:1: log-format: expected logfmt or json, got "xml"',
        f'{file}:2: listen-adress: unknown setting; did you mean "listen-address"?',
        f"{file}:3: exit-grace: expected a duration",
        f"{file}:4: exit-grace: duplicate key, first in line 3",
        f'{file}:5: kernel-headers: expected a folder that exists, got "/nowhere"',
    ]


def test_a_setting_that_looks_like_none_gets_the_list_of_all(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("xyzzy: 1\n")

    assert refusal({"config": str(file)}) == [
        f"{file}:1: xyzzy: unknown setting; expected one of {', '.join(SETTINGS)}"
    ]


def test_a_settings_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("- listen-address\n")

    assert refusal({"config": str(file)}) == [f'{file}:1: expected a mapping such as "listen-address: :8080"']


def test_a_probe_config_must_be_given() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"probe-config": None}, {}, trusted=False)

    assert str(caught.value) == (
        "--probe-config: missing; say which probes to attach: "
        "-c FILE, or USERSPACE_EXPORTER_PROBE_CONFIG, or the settings file"
    )


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("metrics-path", "metrics", 'expected a path that starts with /, got "metrics"'),
        ("metrics-path", "/a b", 'expected a path that starts with /, got "/a b"'),
        ("metrics-path", "/-/ready", 'expected a path that the exporter does not use itself, got "/-/ready"'),
        ("metrics-path", "/-/healthy", 'expected a path that the exporter does not use itself, got "/-/healthy"'),
        ("log-level", "LOUD", 'expected debug, info, warning or error, got "LOUD"'),
        ("web-user", "no such:user", 'expected the name of a user, got "no such:user"'),
        ("exit-grace", "-1", 'expected seconds or a duration such as 500ms, 1s or 1m30s, got "-1"'),
        ("exit-grace", "nan", 'expected seconds or a duration such as 500ms, 1s or 1m30s, got "nan"'),
        ("scan-interval", "2h", 'expected from 0.01 to 3600 seconds, got "2h"'),
        ("state-dir", "a\0b", 'expected a folder, got "a\\x00b"'),
    ],
)
def test_a_flag_that_cannot_be_is_refused(flag: str, text: str, message: str) -> None:
    assert refusal({flag: text}) == [f"--{flag}: {message}"]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0:8080", "", 8080),
        (":8080", "", 8080),
        ("[::]:8080", "", 8080),
        ("[0:0::0]:8080", "", 8080),
        ("[::1]:0", "::1", 0),
        ("127.0.0.1:65535", "127.0.0.1", 65535),
        ("localhost:80", "localhost", 80),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
    ],
)
def test_an_address_is_read_as_go_does(text: str, host: str, port: int) -> None:
    address = parse_address(text)

    assert address == ListenAddress(host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8080", "expected HOST:PORT"),
        ("localhost", "expected HOST:PORT"),
        ("localhost:", "expected a port from 0 to 65535 after the colon"),
        (":http", "expected a port from 0 to 65535 after the colon"),
        (":65536", "expected a port from 0 to 65535 after the colon"),
        (":-1", "expected a port from 0 to 65535 after the colon"),
        (":٨٠", "expected a port from 0 to 65535 after the colon"),
        ("::1:8080", r"expected HOST:PORT; an IPv6 address stands in brackets: \[::1\]:8080"),
        ("http://localhost:80", r"expected HOST:PORT; an IPv6 address stands in brackets: \[::1\]:8080"),
        ("[::g]:80", "expected an IPv6 address in the brackets"),
        ("[127.0.0.1]:80", "expected an IPv6 address in the brackets"),
        ("256.0.0.1:80", "expected an address or the name of a host before the colon"),
        ("a b:80", "expected an address or the name of a host before the colon"),
    ],
)
def test_an_address_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2.0), ("0.5", 0.5), ("500ms", 0.5), ("1s", 1.0), ("1m30s", 90.0), ("1.5h", 5400.0)]
)
def test_a_duration_is_seconds_or_as_in_go(text: str, seconds: float) -> None:
    assert parse_duration(text, least=0.01, most=86400) == pytest.approx(seconds)
