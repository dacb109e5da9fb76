"""The command as a user runs it: real processes, their exit codes, and what is on stderr."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ebpf_userspace_exporter import __version__

GOOD = """\
programs:
  - name: gc_total
    usdt: {gc__start: trace_gc}
    attachment: {binary_name: gunicorn}
    code: int trace_gc(void *ctx) { return 0; }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "programs.yaml"
    file.write_text(GOOD)
    return file


def exporter(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ebpf_userspace_exporter", *map(str, arguments)],
        cwd="/",
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_flag_with_its_default(flag: str) -> None:
    done = exporter(flag)

    assert (done.returncode, done.stderr) == (0, "")
    for text in (
        "-c, --probe-config FILE",
        "-l, --listen-address HOST:PORT",
        "[default: 0.0.0.0:8080]",
        "-m, --metrics-path PATH",
        "--config FILE",
        "--state-dir FOLDER",
        "--scan-interval DURATION",
        "--exit-grace DURATION",
        "--kernel-headers FOLDER",
        "--web-user USER",
        "--log-level LEVEL",
        "--log-format FORMAT",
        "--version",
    ):
        assert text in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["check", "--help"]], ids=" ".join)
def test_what_is_only_told_imports_nothing_that_takes_time(arguments: list[str]) -> None:
    code = (
        "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
        f"from ebpf_userspace_exporter.supervisor.__main__ import main; sys.argv[1:] = {arguments}; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    heavy = {"pydantic", "rich", "psutil", "structlog", "yaml", "prometheus_client", "bcc"}
    assert heavy & set(done.stderr.split()) == set()


@pytest.mark.parametrize(
    ("command", "heavy"),
    [("doctor", {"prometheus_client", "rich", "bcc"}), ("status", {"prometheus_client", "rich", "pydantic", "bcc"})],
)
def test_a_command_imports_what_it_needs_and_no_more(command: str, heavy: set[str]) -> None:
    code = (
        "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
        f"from ebpf_userspace_exporter.supervisor.__main__ import main; sys.argv[1:] = [{command!r}, '--json']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert heavy & set(done.stderr.split()) == set()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ebpf-userspace-exporter ch", {"check"}),
        ("ebpf-userspace-exporter pro", {"probes"}),
        ("ebpf-userspace-exporter check --st", {"--strict"}),
        ("ebpf-userspace-exporter --state", {"--state-dir"}),
    ],
)
def test_the_shell_completes_commands_and_flags(words: str, expected: set[str]) -> None:
    done = exporter(
        _EBPF_USERSPACE_EXPORTER_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(words.count(" "))
    )

    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == expected


def test_what_the_help_says_about_completion_is_what_bash_takes() -> None:
    help_text = " ".join(exporter("--help").stdout.split())
    assert 'eval "$(_EBPF_USERSPACE_EXPORTER_COMPLETE=bash_source ebpf-userspace-exporter)"' in help_text
    script = exporter(_EBPF_USERSPACE_EXPORTER_COMPLETE="bash_source").stdout

    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\ncomplete -p ebpf-userspace-exporter"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("complete ")


def test_a_flag_of_the_exporter_is_not_passed_over_before_a_command() -> None:
    done = exporter("--state-dir", "/nowhere", "status")

    assert (done.returncode, done.stdout) == (2, "")
    assert "--state-dir goes after status, if that has it" in done.stderr


def test_version_is_told() -> None:
    done = exporter("--version")

    assert (done.returncode, done.stdout) == (0, f"ebpf-userspace-exporter {__version__}\n")


@pytest.mark.parametrize(("argument", "message"), [("--prob-config", "No such option"), ("chekc", "No such command")])
def test_what_the_command_line_does_not_know_is_exit_2(argument: str, message: str) -> None:
    done = exporter(argument)

    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "a.yaml", "-c", "b.yaml"], "--probe-config is given twice; expected once"),
        (["-l", ":1", "--listen-address", ":2", "-l", ":3"], "--listen-address is given 3 times; expected once"),
        (["check", "--binary", "/bin/a", "--binary", "/bin/b", "c.yaml"], "--binary is given twice; expected once"),
        (["match", "c.yaml", "--explain", "1", "--explain", "1"], "--explain is given twice; expected once"),
        (["status", "--state-dir", "/a", "--state-dir", "/b"], "--state-dir is given twice; expected once"),
    ],
    ids=["config", "three", "binary", "explain", "state"],
)
def test_a_flag_that_is_given_more_than_once_is_exit_2(arguments: list[str], message: str) -> None:
    done = exporter(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"Error: {message}\n")


def test_a_missing_probe_config_is_exit_2() -> None:
    done = exporter()

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "--probe-config: missing; say which probes to attach: "
        "-c FILE, or USERSPACE_EXPORTER_PROBE_CONFIG, or the settings file\n"
    )


def test_a_misspelt_variable_is_told_beside_what_is_missing() -> None:
    done = exporter(USERSPACE_EXPORTER_PROBE_CONFIGS="programs.yaml")

    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == [
        'USERSPACE_EXPORTER_PROBE_CONFIGS: unknown setting, ignored; did you mean "USERSPACE_EXPORTER_PROBE_CONFIG"?'
    ]


def test_a_broken_config_is_exit_2_with_all_problems_and_no_traceback(config: Path) -> None:
    config.write_text(GOOD.replace("usdt", "usdts").replace("gunicorn", "''"))

    done = exporter("-c", config)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f'{config}:3: programs[0].usdts: unknown key; did you mean "usdt"?\n'
        f"{config}:4: programs[0].attachment.binary_name: "
        'expected the name of a process, as in /proc/PID/comm, got ""\n'
    )


def test_broken_settings_are_exit_2_and_name_flag_and_variable(config: Path) -> None:
    done = exporter("-c", config, "-l", "8080", USERSPACE_EXPORTER_LOG_FORMAT="xml")

    assert done.returncode == 2
    assert done.stderr == (
        '--listen-address: expected HOST:PORT, got "8080"\n'
        'USERSPACE_EXPORTER_LOG_FORMAT: expected logfmt or json, got "xml"\n'
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is asked whom it trusts")
def test_a_config_that_others_can_write_is_exit_2(config: Path) -> None:
    config.chmod(0o666)

    done = exporter("-c", config)

    assert done.returncode == 2
    assert done.stderr.endswith(f"is writable by others: chmod go-w {config}\n")


def test_a_path_that_is_no_text_is_exit_2_and_one_line() -> None:
    done = exporter("-c", os.fsdecode(b"/nowhere/\xff\n"))

    assert (done.returncode, done.stderr) == (2, "/nowhere/\\udcff\\n: no such file\n")


def test_the_exit_code_is_the_run_s_and_warnings_are_logged_first(config: Path, tmp_path: Path) -> None:
    config.write_text(GOOD + "    kprobes: {a: b}\n")

    done = exporter(
        *("-c", config, "--state-dir", tmp_path / "state", "--web-user", "no-such-user", "-l", "127.0.0.1:0"),
        USERSPACE_EXPORTER_EXIT_GRASE="1s",
    )

    assert done.returncode == 1
    environment, warning, *rest = done.stderr.splitlines()
    assert "level=warning msg=environment" in environment
    assert "did you mean" in environment
    assert "level=warning msg=config" in warning
    assert "kprobes ignored" in warning
    assert rest
    assert not any("Traceback" in line for line in rest)
