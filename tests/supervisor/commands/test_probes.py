"""`probes` says what readelf says, in the words of a config."""

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product.compiled import SOURCE, compile_c
from tests.product.exporter import until
from tests.product.programs import PYTHON
from tests.supervisor.commands.command import command

LIBJVM = "/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so"
POSTGRES = "/usr/lib/postgresql/15/bin/postgres"
TYPES = {"1": "unsigned char", "2": "unsigned short", "4": "unsigned int", "8": "unsigned long"}
TYPES |= {"-1": "signed char", "-2": "short", "-4": "int", "-8": "long"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app")
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    return compile_c(SOURCE, folder / "app")


@pytest.fixture
def sleeper() -> Iterator[int]:
    code = "import ctypes, time; ctypes.CDLL('libstdc++.so.6'); time.sleep(600)"
    with subprocess.Popen([PYTHON, "-c", code]) as process:
        until(lambda: "/libgcc_s.so.1" in Path(f"/proc/{process.pid}/maps").read_text(), "it has its libraries")
        yield process.pid
        process.kill()


def notes_of(file: str | Path) -> list[tuple[str, int, int, str]]:
    done = subprocess.run(["readelf", "-nW", file], capture_output=True, text=True, check=True, timeout=120)
    found = re.findall(
        r"Provider: (.*)\n\s*Name: (.*)\n\s*Location: 0x(\w+), Base: 0x\w+, Semaphore: 0x(\w+)\n\s*Arguments: ?(.*)",
        done.stdout,
    )
    return [
        (f"{provider}:{name}", int(location, 16), int(semaphore, 16), arguments.strip())
        for provider, name, location, semaphore, arguments in found
    ]


@pytest.mark.parametrize("file", [PYTHON, LIBJVM, POSTGRES], ids=["python", "libjvm", "postgres"])
def test_all_probes_are_those_of_readelf_with_their_places_and_arguments(file: str) -> None:
    listed = json.loads(command("probes", file, "--json").stdout)

    expected = notes_of(file)
    assert len(expected) >= 8
    assert Counter(
        (probe["usdt"], place["address"], place["semaphore"], place["arguments"].strip())
        for probe in listed
        for place in probe["locations"]
    ) == Counter(expected)
    for probe in listed:
        [*sizes] = zip(*(re.findall(r"(-?\d)@", place["arguments"]) for place in probe["locations"]), strict=True)
        assert probe["arguments"] == [TYPES[max(size, key=lambda text: abs(int(text)))] for size in sizes]


def test_the_table_is_for_reading(app: Path) -> None:
    done = command("probes", app)

    assert done.stdout == f"USDT      ARGUMENTS  PLACES  FILE\napp:work  int, int   3       {app}\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("glob", "names"),
    [("gc__*", {"gc__start", "gc__done"}), ("python:gc__start", {"gc__start"}), ("java:*", set())],
)
def test_a_glob_is_of_the_name_or_of_both(glob: str, names: set[str]) -> None:
    done = command("probes", PYTHON, glob, "--json")

    assert {probe["usdt"] for probe in json.loads(done.stdout)} == {f"python:{name}" for name in names}


def test_of_a_process_all_mapped_files_are_searched(sleeper: int) -> None:
    listed = json.loads(command("probes", sleeper, "--json").stdout)

    lines = Path(f"/proc/{sleeper}/maps").read_text().splitlines()
    mapped = {line.split()[-1] for line in lines if " r-xp " in line and "/" in line}
    expected = {(file, name) for file in mapped for name, *_ in notes_of(file)}
    assert len({file for file, _ in expected}) >= 2
    assert {(probe["file"], probe["usdt"]) for probe in listed} == expected


def test_symbols_of_a_library_are_those_of_nm(sleeper: int) -> None:
    [libc] = {
        line.split()[-1] for line in Path(f"/proc/{sleeper}/maps").read_text().splitlines() if "/libc.so.6" in line
    }
    nm = subprocess.run(["nm", "-D", "--defined-only", libc], capture_output=True, text=True, check=True, timeout=60)
    expected = {line.split()[2].partition("@")[0] for line in nm.stdout.splitlines() if line.split()[1] in "TW"}

    listed = json.loads(command("probes", sleeper, "libc.so.6:*", "--symbols", "--json").stdout)

    assert {symbol["uprobe"] for symbol in listed} == {f"libc.so.6:{name}" for name in expected}
    assert {symbol["file"] for symbol in listed} == {libc}


def test_functions_of_an_executable_go_by_their_bare_name(app: Path) -> None:
    done = command("probes", app, "work*", "--symbols")

    assert [line.split() for line in done.stdout.splitlines()] == [
        ["UPROBE", "FILE"],
        *([name, str(app)] for name in ("work_elsewhere", "work_here", "work_there")),
    ]


@pytest.fixture(scope="module")
def with_statics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with a function that two of its files each have for themselves."""
    folder = tmp_path_factory.mktemp("statics")
    twin = 'static __attribute__((noinline)) int twin(int x) { __asm__ volatile(""); return x + %d; }\n'
    inner = 'static __attribute__((noinline)) int inner(int x) { __asm__ volatile(""); return x; }\n'
    (folder / "other.c").write_text(twin % 1 + "int outer(int x) { return twin(x); }\n")
    (folder / "main.c").write_text(
        twin % 2 + inner + "int outer(int);\nint main(int count, char **_) { return outer(twin(inner(count))); }\n"
    )
    subprocess.run(["gcc", "-O1", "-o", "app", "main.c", "other.c"], cwd=folder, check=True, timeout=120)
    return folder / "app"


def test_static_functions_are_listed_and_marked(with_statics: Path) -> None:
    done = command("probes", with_statics, "*[rn]", "--symbols")

    rows = {tuple(re.split("  +", line)) for line in done.stdout.splitlines()}
    app = str(with_statics)
    assert {("UPROBE", "FILE", "SCOPE"), ("inner", app, "local"), ("outer", app), ("main", app)} <= rows
    assert ("twin", app, "local, as others of that name: cannot be told apart") in rows
    listed = json.loads(command("probes", with_statics, "*", "--symbols", "--json").stdout)
    scopes = {each["uprobe"]: (each["is_local"], each["is_ambiguous"]) for each in listed}
    nm = subprocess.run(["nm", "--defined-only", app], capture_output=True, text=True, check=True, timeout=60)
    assert {name for name, (is_local, _) in scopes.items() if is_local} == {
        line.split()[2] for line in nm.stdout.splitlines() if line.split()[1] == "t"
    }
    assert [name for name, (_, is_ambiguous) in scopes.items() if is_ambiguous] == ["twin"]


def test_of_static_functions_only_those_that_can_be_attached_to_are_for_pasting(with_statics: Path) -> None:
    piece = command("probes", with_statics, "*[rn]", "--symbols", "--yaml").stdout

    assert "  inner: on_inner\n" in piece
    assert "twin" not in piece


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        ([PYTHON, "gc__strat"], 'no USDT probe fits "gc__strat"; did you mean python:gc__start?'),
        ([PYTHON, "pyhton:*gc__start"], 'no USDT probe fits "pyhton:*gc__start"; did you mean python:gc__start?'),
        ([PYTHON, "java:*"], 'no USDT probe fits "java:*"'),
        (["/bin/sleep"], "has no USDT probes"),
        (["APP", "iner", "--symbols"], 'no function fits "iner"; did you mean inner?'),
        (["APP", "libapp:inne*", "--symbols"], 'no function fits "libapp:inne*"; did you mean inner?'),
    ],
    ids=["name", "provider", "nothing like it", "none at all", "function", "library"],
)
def test_a_search_without_a_hit_says_what_may_have_been_meant(
    arguments: list[str], saying: str, with_statics: Path
) -> None:
    target, *rest = [str(with_statics) if word == "APP" else word for word in arguments]

    done = command("probes", target, *rest)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{target}: {saying}\n")
    as_json = command("probes", target, *rest, "--json")
    assert (as_json.returncode, as_json.stdout, as_json.stderr) == (1, "[]\n", done.stderr)


@pytest.mark.bpf
@pytest.mark.parametrize("options", [[], ["--symbols"]], ids=["usdt", "uprobes"])
def test_what_is_pasted_into_a_config_compiles_without_a_warning(options: list[str], app: Path, tmp_path: Path) -> None:
    glob = "work*"
    piece = command("probes", app, glob, "--yaml", *options).stdout
    config = tmp_path / "programs.yaml"
    config.write_text(
        "programs:\n  - name: pasted\n    attachment: {binary_name: app}\n"
        + "".join(f"    {line}\n" for line in piece.splitlines())
    )

    done = command("check", config, "--binary", app, "--strict")

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.splitlines()[1].split() == [str(config), "pasted", "good", str(app)]


@pytest.mark.bpf
def test_the_pasted_types_are_right_for_every_probe_of_postgres(tmp_path: Path) -> None:
    piece = command("probes", POSTGRES, "--yaml").stdout
    config = tmp_path / "programs.yaml"
    config.write_text(
        "programs:\n  - name: pasted\n    attachment: {binary_name: postgres}\n"
        + "".join(f"    {line}\n" for line in piece.splitlines())
    )

    done = command("check", config, "--binary", POSTGRES, "--strict")

    assert done.returncode == 0, done.stdout


def test_a_process_of_another_user_needs_root_and_says_so(sleeper: int) -> None:
    done = command("probes", sleeper, nobody=True)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("; needs root, or CAP_SYS_PTRACE\n")


def test_a_file_is_read_without_root() -> None:
    assert command("probes", PYTHON, nobody=True).stdout == command("probes", PYTHON).stdout


def test_hostile_names_are_escaped_everywhere(app: Path) -> None:
    content = app.read_bytes()
    assert content.count(b"app\0work\0") == 3
    hostile = app.with_name("hostile")
    hostile.write_bytes(content.replace(b"app\0work\0", b"\x1b[m\0w: #\0"))

    for options in ([], ["--json"], ["--yaml"]):
        done = command("probes", hostile, *options)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert len(done.stdout.splitlines()) >= 2
    assert r"\x1b[m:w: #" in command("probes", hostile).stdout


@pytest.mark.parametrize(
    ("target", "saying"),
    [
        ("4194304", "process 4194304 does not exist, or is gone"),
        ("0", "process 0 does not exist, or is gone"),
        ("/nowhere", "/nowhere: No such file or directory"),
        ("/tmp", "/tmp: is a directory, expected a file"),
        ("/etc/passwd", "/etc/passwd: not an ELF file"),
        ("/dev/null", "/dev/null: is no regular file"),
        ("", ""),
    ],
)
def test_what_cannot_be_looked_into_is_one_line(target: str, saying: str) -> None:
    done = command("probes", target)

    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert saying in done.stderr


def test_a_pipe_and_a_file_that_may_not_be_read_are_one_line(tmp_path: Path) -> None:
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)
    os.mkfifo(tmp_path / "pipe")
    secret = tmp_path / "secret"
    secret.write_bytes(b"")
    secret.chmod(0)

    assert command("probes", tmp_path / "pipe").stderr == f"{tmp_path}/pipe: is no regular file\n"
    assert command("probes", secret).stderr == f"{secret}: an empty file\n"
    assert command("probes", secret, nobody=True).stderr == f"{secret}: Permission denied\n"


def test_a_kernel_thread_and_a_zombie_have_no_files() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        for pid in (2, process.pid):
            done = command("probes", pid)
            assert (done.returncode, done.stdout) == (1, ""), done
            assert len(done.stderr.splitlines()) == 1
