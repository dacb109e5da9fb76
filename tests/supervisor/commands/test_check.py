"""`check` tells what would become of a config, as far as it can be told here, and attaches nothing."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.supervisor.commands.check import MAX_EXECUTABLES
from tests.product.compiled import SOURCE, compile_c
from tests.product.exporter import EXAMPLES, comm, until
from tests.product.programs import PYTHON, python_target
from tests.supervisor.commands.command import command

pytestmark = pytest.mark.bpf

GOOD = """
#include <uapi/linux/ptrace.h>
BPF_HASH(seen, u32);
int on_gc(struct pt_regs *ctx) { int x = 0; bpf_usdt_readarg(1, ctx, &x); u32 key = x; seen.increment(key); return 0; }
"""


def program(
    name: str = "gc",
    code: str = GOOD,
    probes: str = "usdt: {gc__start: on_gc}",
    attachment: str = "binary_name: no-such-name",
    metrics: str = "counters: [{name: seen_total, table: seen}]",
) -> str:
    lines = [
        f"  - name: {name}",
        f"    metrics: {{{metrics}}}",
        f"    {probes}",
        f"    attachment: {{{attachment}}}",
        "    code: |",
        *(f"      {line}" for line in code.strip().splitlines()),
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config that nobody may read as well."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    file = tmp_path / "programs.yaml"
    write(file, program())
    return file


def write(file: Path, *programs: str) -> None:
    file.write_text("programs:\n" + "".join(programs))
    file.chmod(0o644)


def results(output: str) -> dict[str, str]:
    return {each["program"]: each["result"] for each in json.loads(output)["programs"]}


def test_what_compiles_and_is_verified_is_good(config: Path) -> None:
    done = command("check", config, "--binary", PYTHON)

    assert (done.returncode, done.stderr) == (0, "")
    table = [line.split("  ") for line in done.stdout.splitlines()]
    assert [[cell.strip() for cell in row if cell.strip()] for row in table] == [
        ["CONFIG", "PROGRAM", "IS", "FOR"],
        [str(config), "gc", "good", PYTHON],
    ]


def test_shipped_examples_are_good_for_what_they_are_made_for() -> None:
    done = command("check", EXAMPLES / "gunicorn-gc/config.yaml", "--binary", PYTHON, "--strict")

    assert done.returncode == 0, done.stdout


def test_without_a_target_nothing_is_compiled_and_that_is_no_success_where_it_is_strict(config: Path) -> None:
    done = command("check", config)

    assert done.returncode == 0
    assert f"{config}: program gc: not compiled: no target: no process matches; say --pid PID or --binary FILE\n" in (
        done.stdout
    )
    assert command("check", config, "--strict").returncode == 1


@contextlib.contextmanager
def sleeping(*binaries: Path) -> Iterator[list[int]]:
    """Run each of them, which are copies of `sleep`; the pids."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen([binary, "600"])) for binary in binaries]
        try:
            for process, binary in zip(processes, binaries, strict=True):
                until(lambda process=process, binary=binary: comm(process.pid) == binary.name, "it has its name")  # type: ignore[misc]  # bound now
            yield [process.pid for process in processes]
        finally:
            for process in processes:
                process.kill()


def copies_of_sleep(folder: Path, number: int) -> list[Path]:
    copies = [folder / str(each) / "many-sleepers" for each in range(number)]
    for copy in copies:
        copy.parent.mkdir()
        shutil.copy("/bin/sleep", copy)
    return copies


def test_it_is_compiled_once_for_all_processes_that_execute_the_same(config: Path) -> None:
    write(config, program(attachment="binary_name: checked-python"))
    with python_target("checked-python") as one, python_target("checked-python") as other:
        done = command("check", config, "--json")

        [checked] = json.loads(done.stdout)["programs"]
        first = min(one.pid, other.pid)
        assert (done.returncode, checked["result"]) == (0, "good")
        assert checked["against"] == f"{PYTHON} (process {first} and 1 more)"


def test_every_executable_that_matches_is_compiled_for(config: Path, tmp_path: Path) -> None:
    [copy] = copies_of_sleep(tmp_path, 1)
    write(config, program(attachment="any: [{binary_name: checked-python}, {binary_name: many-sleepers}]"))
    with python_target("checked-python") as target, sleeping(copy) as [sleeper]:
        done = command("check", config)

    python, sleep = f"{PYTHON} (process {target.pid})", f"{copy} (process {sleeper})"
    rows = [re.split("  +", line) for line in done.stdout.splitlines()[1:3]]
    assert [row[2:] for row in rows] == [["good", python], ["failed", sleep]]
    assert done.returncode == 1
    assert f"{config}: program gc, for {sleep}: failed: USDT probe gc__start: in none of " in done.stdout


def test_of_many_executables_some_are_left_out_and_that_is_said(config: Path, tmp_path: Path) -> None:
    copies = copies_of_sleep(tmp_path, MAX_EXECUTABLES + 1)
    write(config, program(attachment="binary_name: many-sleepers"))
    with sleeping(*copies, copies[0]) as pids:
        done = command("check", config)

    lines = done.stdout.splitlines()
    assert [line for line in lines if line.endswith(f" failed        {copies[0]} (process {pids[0]} and 1 more)")]
    assert len([line for line in lines if re.search(r" failed +/", line)]) == MAX_EXECUTABLES
    assert re.search(r" not compiled +1 more$", lines[1 + MAX_EXECUTABLES])
    said = "program gc, for 1 more: not compiled: more than 8 executables match; say --pid PID or --binary FILE"
    assert f"{config}: {said}" in lines
    assert len([line for line in lines if ": failed: " in line]) == 1  # the same of all


def test_it_is_compiled_for_the_process_that_is_named(config: Path) -> None:
    with python_target("any-python") as target:
        done = command("check", config, "--pid", target.pid, "--json")

        assert results(done.stdout) == {"gc": "good"}


def test_nothing_is_attached(config: Path, tmp_path: Path) -> None:
    binary = compile_c(SOURCE, tmp_path / "app")
    write(config, program(probes="usdt: {work: on_gc}"))
    with subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as target:
        assert target.stdin
        assert target.stdout

        def code() -> str:
            assert target.stdin
            assert target.stdout
            target.stdin.write("semaphore\ncode\n")
            target.stdin.flush()
            return target.stdout.readline() + target.stdout.readline()

        before = code()
        done = command("check", config, "--pid", target.pid)

        assert (done.returncode, code()) == (0, before)
        target.stdin.close()


@pytest.mark.parametrize(
    ("changes", "saying"),
    [
        (
            {"code": GOOD.replace("int x = 0;", "")},
            r"gc: failed: clang does not compile the code\n    \S+/programs.yaml:17:67: error:",
        ),
        ({"code": GOOD.replace("u32 key = x;", "u32 key = *(u32 *)8;")}, "gc: failed: .*the verifier refuses: "),
        ({"code": GOOD.replace("u32 key", "char c[600] = {}; u32 key = c[x]; u32 other")}, "512 bytes of BPF stack"),
        ({"metrics": "counters: [{name: seen_total, table: sen}]"}, r"did you mean seen\?"),
        ({"probes": "usdt: {gc__strat: on_gc}"}, r"did you mean python:gc__start\?"),
        ({"probes": "uprobes: {'libssl:SSL_read': on_gc}"}, "check against --pid"),
        ({"probes": "usdt: {gc__start: on_cg}"}, r"no function on_cg; did you mean on_gc\?"),
    ],
    ids=["c", "verifier", "stack", "table", "probe", "library", "function"],
)
def test_what_would_fail_fails_alone_with_the_tool_s_own_words(
    changes: dict[str, str], saying: str, config: Path
) -> None:
    write(config, program("other"), program(**{**changes, "name": "gc"}).replace("seen_total", "again_total"))

    done = command("check", config, "--binary", PYTHON)

    assert done.returncode == 1
    assert re.search(saying, done.stdout), done.stdout
    assert re.search(r" other +good ", done.stdout)


@pytest.mark.parametrize(
    ("code", "warning"),
    [
        (
            GOOD.replace("int x", "u64 x"),
            "FILE:9: warning: on_gc: bpf_usdt_readarg(1, …) reads nothing: argument 1 has 4 bytes, the variable 8",
        ),
        (
            GOOD.replace("int on_gc", "BPF_HASH(other);\nint on_gc").replace(
                "return", "u64 k = x; other.increment(k); return"
            ),
            "warning: map other: no metric reads it, nor does the code",
        ),
        (GOOD.replace("u32 key = x", "int *p = x; u32 key = x"), "FILE:9:86: warning: "),
    ],
    ids=["size", "unread", "clang"],
)
def test_a_warning_is_an_error_where_it_is_strict(code: str, warning: str, config: Path) -> None:
    write(config, program(code=code))

    done = command("check", config, "--binary", PYTHON)

    assert done.returncode == 0
    assert f"{config}: program gc: {warning.replace('FILE', str(config))}" in done.stdout
    assert command("check", config, "--binary", PYTHON, "--strict").returncode == 1


def test_a_histogram_without_room_for_its_sum_is_warned_of(config: Path) -> None:
    code = GOOD.replace("BPF_HASH(seen, u32);", "BPF_HISTOGRAM(seen, int, 4);")
    bucket = "labels: [{name: bucket, size: 4, decoders: [{name: uint}]}], bucket_type: exp2, bucket_max: 3"
    write(config, program(code=code, metrics=f"histograms: [{{name: seen, table: seen, {bucket}}}]"))

    done = command("check", config, "--binary", PYTHON)

    assert done.returncode == 0, done.stdout
    said = "warning: metric seen: table seen has 4 entries, no room for the sum's key 4, so that the sum stays 0"
    assert f"{config}: program gc: {said}: it needs 5\n" in done.stdout
    write(
        config, program(code=code.replace("4)", "5)"), metrics=f"histograms: [{{name: seen, table: seen, {bucket}}}]")
    )
    assert "warning" not in command("check", config, "--binary", PYTHON).stdout


def test_a_uretprobe_in_a_go_binary_is_refused_and_where_it_is_forced_warned_of(config: Path, tmp_path: Path) -> None:
    (tmp_path / "buildinfo").write_bytes(b"\xff Go buildinf:")
    plain, binary = compile_c(SOURCE, tmp_path / "app"), tmp_path / "go"
    subprocess.run(
        ["objcopy", "--add-section", f".go.buildinfo={tmp_path}/buildinfo", plain, binary], check=True, timeout=60
    )
    code = GOOD.replace("bpf_usdt_readarg(1, ctx, &x);", "")
    text = program(code=code, probes="uretprobes: {event: on_gc}")
    write(config, text)

    refused = command("check", config, "--binary", binary)
    write(config, text.replace("    attachment", "    allow_go_uretprobes: true\n    attachment"))
    forced = command("check", config, "--binary", binary)

    assert refused.returncode == 1
    assert "is a Go binary" in refused.stdout
    assert forced.returncode == 0, forced.stdout
    assert "warning: uretprobe of on_gc in " in forced.stdout


def test_config_warnings_are_shown_and_count(config: Path) -> None:
    write(config, program().replace("    attachment", "    kprobes: {a: b}\n    attachment"))

    done = command("check", config, "--binary", PYTHON)

    assert done.returncode == 0
    assert "kprobes ignored" in done.stdout
    assert command("check", config, "--binary", PYTHON, "--strict").returncode == 1


def test_broken_configs_are_exit_2_and_the_others_are_checked_all_the_same(config: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("programs: [{name: x, usdts: {}}]\n")

    done = command("check", broken, tmp_path / "missing.yaml", config, "--binary", PYTHON)

    assert done.returncode == 2
    assert f'{broken}:1: programs[0].usdts: unknown key; did you mean "usdt"?' in done.stderr
    assert f"{tmp_path}/missing.yaml: no such file" in done.stderr
    assert re.search(r" gc +good ", done.stdout)


def test_json_has_broken_configs_with_all_their_problems(config: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("programs: [{name: x, usdts: {}}]\n")

    done = command("check", broken, config, "--binary", PYTHON, "--json")

    [found] = json.loads(done.stdout)["broken"]
    assert (done.returncode, found["config"]) == (2, str(broken))
    assert found["problems"] == done.stderr.splitlines()
    assert len(found["problems"]) == 3
    assert results(done.stdout) == {"gc": "good"}
    assert json.loads(command("check", config, "--json").stdout)["broken"] == []


@pytest.mark.parametrize(
    ("options", "saying"),
    [
        (["--pid", "4194304"], "--pid: process 4194304 does not exist"),
        (["--pid", "0"], "0 is not in the range"),
        (["--binary", "/nowhere"], "--binary: /nowhere: No such file or directory"),
        (["--binary", "/tmp"], "--binary: /tmp: is a directory, expected a file"),
        (["--binary", "/etc/passwd"], "--binary: /etc/passwd: not an ELF file"),
        (["--binary", PYTHON, "--pid", "1"], "exclude each other"),
        (["--kernel-headers", "/nowhere"], "--kernel-headers: expected a folder that exists"),
    ],
)
def test_what_cannot_be_asked_for_is_exit_2(options: list[str], saying: str, config: Path) -> None:
    done = command("check", config, *options)

    assert (done.returncode, done.stdout) == (2, "")
    assert saying in done.stderr


def test_without_root_it_is_compiled_and_what_is_missing_said(config: Path) -> None:
    bad = program("bad", GOOD.replace("int x = 0;", "")).replace("seen_total", "bad_total")
    write(config, program(), bad)

    done = command("check", config, "--binary", PYTHON, "--json", nobody=True)

    assert results(done.stdout) == {"gc": "not verified", "bad": "failed"}
    why = {each["program"]: each["why"] for each in json.loads(done.stdout)["programs"]}
    assert why["gc"] == "needs root: the code compiles; creating map seen needs CAP_BPF"
    assert done.returncode == 1
    write(config, program())
    assert command("check", config, "--binary", PYTHON, nobody=True).returncode == 0
    assert command("check", config, "--binary", PYTHON, "--strict", nobody=True).returncode == 1


def test_without_root_a_program_without_maps_is_not_verified(config: Path) -> None:
    write(config, program(code="int on_gc(void *ctx) { return 0; }", metrics=""))

    done = command("check", config, "--binary", PYTHON, nobody=True)

    assert "not verified: needs root: load on_gc: " in done.stdout


def test_without_root_another_user_s_process_is_not_looked_into(config: Path) -> None:
    done = command("check", config, "--pid", os.getpid(), nobody=True)

    assert done.returncode == 0
    assert f"not verified: needs root: process {os.getpid()}: Permission denied" in done.stdout


@pytest.fixture
def endless(config: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A check whose compiler takes for ever, or would."""
    write(config, program(code='#include "/proc/self/fd/0"\n' + GOOD))
    arguments = [sys.executable, "-m", "ebpf_userspace_exporter", "check", str(config), "--binary", PYTHON]
    # Where we were started in the background it is ignored, and would be by what we start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(arguments, cwd="/", stdin=subprocess.PIPE, stdout=-1, stderr=-1) as process:
        signal.signal(signal.SIGINT, before)
        yield process
        process.kill()


def test_ctrl_c_ends_the_builder_too(endless: "subprocess.Popen[bytes]") -> None:
    def builders() -> list[int]:
        children = Path(f"/proc/{endless.pid}/task/{endless.pid}/children").read_text().split()
        return [int(pid) for pid in children if comm(int(pid)) == "exporter-build"]

    [builder] = until(builders, "a builder")
    endless.send_signal(signal.SIGINT)

    _, stderr = endless.communicate(timeout=60)
    assert endless.returncode == 1
    assert b"Traceback" not in stderr
    until(lambda: comm(builder) != "exporter-build", "the builder is gone")
