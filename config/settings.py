"""The exporter's own settings: a flag beats the environment, which beats the file, which beats the default."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ebpf_userspace_exporter.config.address import ListenAddress
from ebpf_userspace_exporter.config.errors import ConfigError, Problem, did_you_mean, quote, suggestion_or_list
from ebpf_userspace_exporter.config.files import read_text
from ebpf_userspace_exporter.config.nodes import parse
from ebpf_userspace_exporter.config.setting_parsers import SETTINGS, LogFormat, LogLevel

ENVIRONMENT_PREFIX = "USERSPACE_EXPORTER_"
DEFAULT_FILE = ".ebpf-userspace-exporter.yaml"

# Read elsewhere: how to attach and to look, in comparisons and tests, and what the supervisor tells the web server.
_OTHER_VARIABLES = frozenset(
    ENVIRONMENT_PREFIX + name for name in ("ATTACH", "EVENTS", "WEB_STATE_DIR", "WEB_METRICS_PATH")
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run; durations are seconds. `kernel_headers` and `web_user` are None where they are to be found out."""

    probe_config: Path
    reload_on_change: bool
    config: Path | None
    listen: ListenAddress
    metrics_path: str
    state_dir: Path
    scan_interval: float
    rescan_interval: float
    exit_grace: float
    kernel_headers: Path | None
    web_user: str | None
    log_level: LogLevel
    log_format: LogFormat


@dataclass(frozen=True, slots=True)
class _Given:
    """A setting's text, and how to name the place it comes from."""

    text: str
    where: Callable[[str], Problem]


def load_settings(flags: Mapping[str, str | None], environment: Mapping[str, str], *, trusted: bool) -> Settings:
    """Return the settings; ConfigError with everything that is wrong with them.

    `flags` has the long flags' names without the dashes, None for those not given. An empty environment variable
    counts as not given. `trusted` is as in `load_config`, for the settings file.
    """
    given = {
        name: _Given(text, partial(Problem, f"--{name}", None, ())) for name, text in flags.items() if text is not None
    }
    problems: list[Problem] = []
    for name in ("config", *SETTINGS):
        variable = _variable(name)
        if environment.get(variable):
            given.setdefault(name, _Given(environment[variable], partial(Problem, variable, None, ())))
    file = _file(given.get("config"), environment)
    if file is not None:
        from_file, file_problems = _read_file(file, trusted=trusted)
        problems += file_problems
        given = {**from_file, **given}
    values, value_problems = _parse_all(given)
    problems += value_problems
    if problems:
        raise ConfigError(problems)
    return Settings(config=file, **values)


def unknown_variables(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return one line for the log for each variable that looks like a setting and is none."""
    settings = [_variable(name).removeprefix(ENVIRONMENT_PREFIX) for name in ("config", *SETTINGS)]
    lines: list[str] = []
    for variable in sorted(environment):
        word = variable.removeprefix(ENVIRONMENT_PREFIX)
        if word == variable or word in settings or variable in _OTHER_VARIABLES:
            continue
        # Compared without the prefix, which would make all of them look alike.
        meant = did_you_mean(word.upper(), settings)
        hint = "--help names the settings" if meant is None else f"did you mean {quote(ENVIRONMENT_PREFIX + meant)}?"
        lines.append(str(Problem(variable, None, (), f"unknown setting, ignored; {hint}")))
    return tuple(lines)


def _parse_all(given: Mapping[str, _Given]) -> tuple[dict[str, Any], list[Problem]]:
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, setting in SETTINGS.items():
        field = "listen" if name == "listen-address" else name.replace("-", "_")
        found = given.get(name)
        text = setting.default if found is None else found.text
        try:
            values[field] = None if text is None else setting.parse(text)
        except ValueError as error:
            where = found.where if found is not None else partial(Problem, f"default of --{name}", None, ())
            problems.append(where(f"{str(error) or setting.expectation}, got {quote(str(text))}"))
    if values.get("probe_config", "refused") is None:
        message = f"missing; say which probes to attach: -c FILE, or {_variable('probe-config')}, or the settings file"
        problems.append(Problem("--probe-config", None, (), message))
    return values, problems


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper().replace("-", "_")


def _file(given: _Given | None, environment: Mapping[str, str]) -> Path | None:
    if given is not None:
        return Path(given.text)
    home = environment.get("HOME", "")  # systemd sets none for a service without User=
    if not home.startswith("/"):
        return None
    file = Path(home, DEFAULT_FILE)
    try:
        return file if file.exists() else None
    except OSError:
        return None


def _read_file(file: Path, *, trusted: bool) -> tuple[dict[str, _Given], list[Problem]]:
    document = parse(str(file), read_text(file, trusted=trusted))
    problems = list(document.problems)
    given: dict[str, _Given] = {}
    content = {} if document.value is None else document.value
    if not isinstance(content, dict):
        return {}, [*problems, document.problem((), 'expected a mapping such as "listen-address: :8080"')]
    for name, value in content.items():
        if name not in SETTINGS:
            problems.append(document.problem((name,), f"unknown setting{suggestion_or_list(name, SETTINGS)}"))
        elif isinstance(value, str) and value:
            given[name] = _Given(value, partial(document.problem, (name,)))
        elif value is not None:
            problems.append(document.problem((name,), SETTINGS[name].expectation))
    return given, problems
