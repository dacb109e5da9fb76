"""The command line."""

import os
from collections.abc import Callable
from typing import Any

import click
import structlog

from ebpf_userspace_exporter import __version__
from ebpf_userspace_exporter.config.errors import ConfigError
from ebpf_userspace_exporter.config.load import load_config
from ebpf_userspace_exporter.config.setting_parsers import SETTINGS
from ebpf_userspace_exporter.config.settings import load_settings, unknown_variables
from ebpf_userspace_exporter.supervisor.log import configure

PROGRAM = "ebpf-userspace-exporter"
EXIT_CONFIG = 2

logger = structlog.get_logger()


def _setting(name: str, help: str, metavar: str, short: str | None = None) -> Callable[[Any], Any]:  # noqa: A002 - click's
    """Return a flag whose value is text: what it means is decided where flags, environment and file are merged."""
    default = SETTINGS[name].default if name in SETTINGS else None
    text = help if default is None else f"{help}  [default: {default}]"
    flags = [f"--{name}"] if short is None else [short, f"--{name}"]
    return click.option(*flags, name.replace("-", "_"), metavar=metavar, help=text)


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every setting may also be given by an environment variable (USERSPACE_EXPORTER_LISTEN_ADDRESS) or, but for "
    "--config, in the settings file (listen-address: ':8080'). A flag beats the environment, which beats the file.",
)
@_setting("probe-config", "The programs: their probes, code and metrics, in YAML. SIGHUP reads it again.", "FILE", "-c")
@_setting(
    "listen-address",
    "Where to serve HTTP. An empty host, 0.0.0.0 or [::] means all addresses, IPv4 and IPv6.",
    "HOST:PORT",
    "-l",
)
@_setting("metrics-path", "The path under which metrics are served; / is allowed.", "PATH", "-m")
@_setting(
    "config",
    "The exporter's own settings, in YAML; not the programs.  [default: $HOME/.ebpf-userspace-exporter.yaml, if there]",
    "FILE",
)
@_setting("state-dir", "Where the metric files and the control socket are; best on a tmpfs.", "FOLDER")
@_setting("scan-interval", "How often to look for new processes: seconds, or 500ms, 1s, 1m.", "DURATION")
@_setting("rescan-interval", "How often to read again what may change: titles, ports, libraries, cgroups.", "DURATION")
@_setting("exit-grace", "How long the last values of a process that has exited are served.", "DURATION")
@_setting("kernel-headers", "The headers to compile with, where those found by themselves will not do.", "FOLDER")
@_setting("web-user", "The user that the HTTP server runs as.", "USER")
@_setting("log-level", "The least level that is logged: debug, info, warning or error.", "LEVEL")
@_setting("log-format", "How log lines look: logfmt or json.", "FORMAT")
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, /, **flags: str | None) -> None:
    """Turn probes in running programs (USDT, uprobes, uretprobes) into Prometheus metrics.

    The programs under observation are neither touched nor restarted. Needs root, or CAP_BPF, CAP_PERFMON and
    CAP_SYS_PTRACE.
    """
    if context.invoked_subcommand is None:
        context.exit(_run({name.replace("_", "-"): text for name, text in flags.items()}))


def _run(flags: dict[str, str | None]) -> int:
    """Run the exporter until it is told to stop; return its exit code."""
    is_root = os.geteuid() == 0
    unknown = unknown_variables(os.environ)
    try:
        settings = load_settings(flags, os.environ, trusted=is_root)
    except ConfigError as error:
        # Beside what is missing, as that may be what was misspelt.
        click.echo("\n".join([str(error), *unknown]), err=True)
        return EXIT_CONFIG
    configure(settings.log_level, settings.log_format)
    for warning in unknown:
        logger.warning("environment", warning=warning)
    try:
        loaded = load_config(settings.probe_config, trusted=is_root)
    except ConfigError as error:
        click.echo(str(error), err=True)
        return EXIT_CONFIG
    for warning in loaded.warnings:
        logger.warning("config", warning=warning)
    # Late, so that --help and a broken config need none of it.
    from ebpf_userspace_exporter.supervisor.run import run  # noqa: PLC0415

    return run(settings, loaded)
