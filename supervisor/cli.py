"""The command line.

What a command needs is imported when it is run: --help, completion and the small commands start in an instant.
"""

# ruff: noqa: PLC0415

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebpf_userspace_exporter import __version__
from ebpf_userspace_exporter.config.setting_parsers import SETTINGS

if TYPE_CHECKING:
    from ebpf_userspace_exporter.config.settings import Settings

PROGRAM = "ebpf-userspace-exporter"
EXIT_CONFIG = 2

_FILE = click.Path(path_type=Path, readable=False)  # who reads it says more about why it cannot


def _once(_context: click.Context, flag: click.Parameter, values: tuple[Any, ...]) -> Any:
    """Return the one value of a flag, None for none; click would take the last of several without a word."""
    if len(values) > 1:
        number = "twice" if len(values) == 2 else f"{len(values)} times"
        raise click.UsageError(f"{flag.opts[-1]} is given {number}; expected once")
    return values[0] if values else None


_option = partial(click.option, multiple=True, callback=_once)


def _setting(name: str, help: str, metavar: str, short: str | None = None) -> Callable[[Any], Any]:  # noqa: A002 - click's
    """Return a flag whose value is text: what it means is decided where flags, environment and file are merged."""
    default = SETTINGS[name].default if name in SETTINGS else None
    text = help if default is None else f"{help}  [default: {default}]"
    flags = [f"--{name}"] if short is None else [short, f"--{name}"]
    return _option(*flags, name.replace("-", "_"), metavar=metavar, help=text)


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every setting may also be given by an environment variable (USERSPACE_EXPORTER_LISTEN_ADDRESS) or, but for "
    "--config, in the settings file (listen-address: ':8080'). A flag beats the environment, which beats the file.\n\n"
    "Completion of commands and flags, for bash (zsh and fish alike): "
    'eval "$(_EBPF_USERSPACE_EXPORTER_COMPLETE=bash_source ebpf-userspace-exporter)"',
)
@_setting("probe-config", "The programs: their probes, code and metrics, in YAML. SIGHUP reads it again.", "FILE", "-c")
@click.option(
    "--reload-on-change", flag_value="true", default=None, help="Read the probe config again when it changes."
)
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
    given = {name.replace("_", "-"): text for name, text in flags.items()}
    if context.invoked_subcommand is None:
        context.exit(_run(given))
    for name, text in given.items():
        if text is not None:
            # Not passed over: somebody relies on it.
            raise click.UsageError(f"--{name} goes after {context.invoked_subcommand}, if that has it")


@cli.command()
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...", type=_FILE)
@_option("--pid", type=click.IntRange(min=1), help="Compile for this process.")
@_option("--binary", type=_FILE, help="Compile for this executable, which need not run.")
@click.option("--strict", is_flag=True, help="Fail on warnings, and where something was not compiled or not verified.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@_setting("kernel-headers", "The headers to compile with, where those found by themselves will not do.", "FOLDER")
@click.pass_context
def check(context: click.Context, /, configs: tuple[Path, ...], **options: Any) -> None:
    """Check configs: schema, compiler, verifier. Nothing is attached.

    Programs are compiled for --pid, --binary, or else each executable among the processes that match. Exit code 0: all
    is good; 1: a program fails; 2: a config is broken. What needs root is left out without it, and said.
    """
    from ebpf_userspace_exporter.supervisor.commands.check import Against, check_configs

    if options["pid"] is not None and options["binary"] is not None:
        raise click.UsageError("--pid and --binary exclude each other")
    headers = _settings({"kernel-headers": options["kernel_headers"]}).kernel_headers
    against = Against(options["pid"], options["binary"])
    context.exit(check_configs(configs, against, headers, strict=options["strict"], as_json=options["as_json"]))


@cli.command()
@click.argument("config", type=_FILE)
@_option("--explain", type=click.IntRange(min=1), metavar="PID", help="Say by which keys, or why not.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.pass_context
def match(context: click.Context, /, config: Path, *, explain: int | None, as_json: bool) -> None:
    """List the live processes that the programs of a config go to."""
    from ebpf_userspace_exporter.supervisor.commands.match import show_explanation, show_matches

    if explain is None:
        context.exit(show_matches(config, as_json=as_json))
    context.exit(show_explanation(config, explain, as_json=as_json))


@cli.command()
@click.argument("target", metavar="PID|FILE", type=click.Path(readable=False))
@click.argument("glob", default="*")
@click.option(
    "--symbols", is_flag=True, help="List the functions that a uprobe can be attached to, static ones too, instead."
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Write a piece of a program, with code that reads the arguments.")
@click.pass_context
def probes(context: click.Context, /, target: str, glob: str, *, symbols: bool, as_json: bool, as_yaml: bool) -> None:
    """List the USDT probes, or the functions, of a process or a file.

    Of a process, those of all files that it maps. Arguments are shown by the C type that reads them. GLOB is matched
    against NAME and PROVIDER:NAME, or the function. Exit code 1: there is none, with --json and --yaml too, or what was
    named cannot be looked into.
    """
    from ebpf_userspace_exporter.supervisor.commands.probes import show_probes

    context.exit(show_probes(target, glob, symbols=symbols, as_json=as_json, as_yaml=as_yaml))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@_setting("kernel-headers", "The headers to compile with, where those found by themselves will not do.", "FOLDER")
@click.pass_context
def doctor(context: click.Context, /, *, as_json: bool, kernel_headers: str | None) -> None:
    """Say whether probes can work here, and else what to do.

    Exit code 1: they cannot.
    """
    from ebpf_userspace_exporter.supervisor.commands.doctor import examine

    headers = _settings({"kernel-headers": kernel_headers}).kernel_headers
    context.exit(examine(headers, as_json=as_json))


@cli.command()
@click.pass_context
def schema(context: click.Context, /) -> None:
    """Write the JSON Schema of the config, for editors."""
    from ebpf_userspace_exporter.supervisor.commands.schema import show_schema

    context.exit(show_schema())


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@_setting("state-dir", "Where the exporter has its control socket.", "FOLDER")
@click.pass_context
def status(context: click.Context, /, *, as_json: bool, state_dir: str | None) -> None:
    """Show the running exporter's targets, their states and errors."""
    from ebpf_userspace_exporter.supervisor.commands.status import show_status

    context.exit(show_status(_settings({"state-dir": state_dir}).state_dir, as_json=as_json))


def _settings(flags: dict[str, str | None]) -> "Settings":
    """Return the settings, for a command that needs one of them; ends the command where they are broken."""
    from ebpf_userspace_exporter.config.errors import ConfigError
    from ebpf_userspace_exporter.config.settings import load_settings

    try:
        # None of the commands reads the config that the exporter would run.
        return load_settings({**flags, "probe-config": os.devnull}, os.environ, trusted=os.geteuid() == 0)
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(EXIT_CONFIG) from error


def _run(flags: dict[str, str | None]) -> int:
    """Run the exporter until it is told to stop; return its exit code."""
    # First, so that what workers use lies together: what one of them touches becomes its own by whole pages.
    import ebpf_userspace_exporter.worker.process  # noqa: F401

    # isort: split
    import structlog

    from ebpf_userspace_exporter.config.errors import ConfigError
    from ebpf_userspace_exporter.config.load import load_config
    from ebpf_userspace_exporter.config.settings import load_settings, unknown_variables
    from ebpf_userspace_exporter.supervisor.config_watch import ConfigWatch
    from ebpf_userspace_exporter.supervisor.log import configure

    is_root = os.geteuid() == 0
    unknown = unknown_variables(os.environ)
    try:
        settings = load_settings(flags, os.environ, trusted=is_root)
    except ConfigError as error:
        # Beside what is missing, as that may be what was misspelt.
        click.echo("\n".join([str(error), *unknown]), err=True)
        return EXIT_CONFIG
    configure(settings.log_level, settings.log_format)
    logger = structlog.get_logger()
    for warning in unknown:
        logger.warning("environment", warning=warning)
    config_watch = ConfigWatch(settings.probe_config, is_wanted=settings.reload_on_change)  # before it is read
    try:
        loaded = load_config(settings.probe_config, trusted=is_root)
    except ConfigError as error:
        click.echo(str(error), err=True)
        return EXIT_CONFIG
    for warning in loaded.warnings:
        logger.warning("config", warning=warning)
    from ebpf_userspace_exporter.supervisor.run import run

    return run(settings, loaded, config_watch)
