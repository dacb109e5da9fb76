"""Every key of a selector on a real process, both ways, and what becomes of several."""

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pytest

from ebpf_userspace_exporter.supervisor.processes import Process, process_table
from ebpf_userspace_exporter.supervisor.selection.evaluate import evaluate
from ebpf_userspace_exporter.supervisor.selection.facts import Facts, Unreadable
from ebpf_userspace_exporter.supervisor.selection.observation import Observation
from ebpf_userspace_exporter.supervisor.selection.verdict import Outcome, Verdict
from tests.product.exporter import comm, free_port
from tests.product.programs import PYTHON
from tests.supervisor.selection.living import FACTS, NOBODY, Living, as_nobody, living, outcome, selector_of, verdict

MATCHES, DOES_NOT, UNKNOWN = Outcome.MATCHES, Outcome.DOES_NOT, Outcome.UNKNOWN
CONTAINER = "5e1f" * 16


@dataclass(frozen=True, slots=True)
class Specimen:
    """A process of which everything is known."""

    process: Living
    cwd: Path
    ports: tuple[int, int]


@pytest.fixture(scope="module")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Specimen]:
    directory = tmp_path_factory.mktemp("specimen")
    directory.chmod(0o755)
    ports = free_port(), free_port()
    through = ("setpriv", f"--reuid={NOBODY}", "--clear-groups")
    with living(
        "--role=web", "--zone=b c", environ={"APP": "shop", "TIER": "2"}, cwd=directory, through=through
    ) as process:
        process.do(f"import socket; a = socket.create_server(('127.0.0.1', {ports[0]}))")
        process.do(f"import socket; b = socket.create_server(('::1', {ports[1]}), family=socket.AF_INET6)")
        process.do("import ctypes; ctypes.CDLL('libbz2.so.1.0')")
        yield Specimen(process, directory, ports)


def _texts(specimen: Specimen) -> dict[str, str]:
    """Return what the keys below stand for in this run."""
    first, second = specimen.ports
    return {
        "CWD": str(specimen.cwd),
        "FIRST": str(first),
        "SECOND": str(second),
        "AROUND": f"{second - 1}-{second + 1}",
        "OTHER": str(max(first, second) + 1),
        "PARENT": comm(os.getpid()),
    }


def _filled_in(value: Any, texts: Mapping[str, str]) -> Any:
    match value:
        case str():
            return texts.get(value, value)
        case list():
            return [_filled_in(each, texts) for each in value]
        case dict():
            return {key: _filled_in(each, texts) for key, each in value.items()}
    return value


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param({}, MATCHES, id="nothing asked"),
        pytest.param({"binary_name": "specimen"}, MATCHES, id="binary_name"),
        pytest.param({"binary_name": ["other", "specimen"]}, MATCHES, id="binary_name, any of"),
        pytest.param({"binary_name": "Specimen"}, DOES_NOT, id="binary_name, other case"),
        pytest.param({"binary_name": "spec*"}, DOES_NOT, id="binary_name is no glob"),
        pytest.param({"exe": PYTHON}, MATCHES, id="exe"),
        pytest.param({"exe": "/usr/*/python3*"}, MATCHES, id="exe, glob"),
        pytest.param({"exe": "*python*"}, MATCHES, id="exe, glob over slashes"),
        pytest.param({"exe": ["/opt/*", "/usr/bin/*"]}, MATCHES, id="exe, any of"),
        pytest.param({"exe": "python3"}, DOES_NOT, id="exe is the whole path"),
        pytest.param({"exe": "/usr/bin/python3"}, DOES_NOT, id="exe is no link"),
        pytest.param({"cmdline": "--role=web"}, MATCHES, id="cmdline"),
        pytest.param({"cmdline": ["^/usr", "b c$", r"--role=\w+ --zone"]}, MATCHES, id="cmdline, all of"),
        pytest.param({"cmdline": ["--role=web", "--role=db"]}, DOES_NOT, id="cmdline, not all"),
        pytest.param({"cmdline": "^--role"}, DOES_NOT, id="cmdline, anchored"),
        pytest.param({"argv0": "*/python3*"}, MATCHES, id="argv0"),
        pytest.param({"argv0": "*role*"}, DOES_NOT, id="argv0 is the first only"),
        pytest.param({"user": "nobody"}, MATCHES, id="user"),
        pytest.param({"user": ["root", "nobody"]}, MATCHES, id="user, any of"),
        pytest.param({"user": "root"}, DOES_NOT, id="other user"),
        pytest.param({"uid": NOBODY}, MATCHES, id="uid"),
        pytest.param({"uid": [0, NOBODY]}, MATCHES, id="uid, any of"),
        pytest.param({"uid": 0}, DOES_NOT, id="uid, other"),
        pytest.param({"cwd": "CWD"}, MATCHES, id="cwd"),
        pytest.param({"cwd": "*/specimen?"}, MATCHES, id="cwd, glob"),
        pytest.param({"cwd": "/"}, DOES_NOT, id="cwd, other"),
        pytest.param({"environ": {"APP": "^shop$", "TIER": "[12]"}}, MATCHES, id="environ"),
        pytest.param({"environ": {"APP": "ho"}}, MATCHES, id="environ, unanchored"),
        pytest.param({"environ": {"APP": "^ho"}}, DOES_NOT, id="environ, another value"),
        pytest.param({"environ": {"APP": "", "OTHER": ""}}, DOES_NOT, id="environ, not set"),
        pytest.param({"library": "*/libbz2.so*"}, MATCHES, id="library"),
        pytest.param({"library": ["*/libnone.so", "*/libc.so.6"]}, MATCHES, id="library, any of"),
        pytest.param({"library": "*/libjvm.so"}, DOES_NOT, id="library, not mapped"),
        pytest.param({"listens_on": "FIRST"}, MATCHES, id="listens_on, v4"),
        pytest.param({"listens_on": "SECOND"}, MATCHES, id="listens_on, v6"),
        pytest.param({"listens_on": "AROUND"}, MATCHES, id="listens_on, range"),
        pytest.param({"listens_on": "OTHER"}, DOES_NOT, id="listens_on, other"),
        pytest.param({"parent": {"binary_name": "PARENT"}}, MATCHES, id="parent"),
        pytest.param({"parent": {"binary_name": "specimen"}}, DOES_NOT, id="parent is not itself"),
        pytest.param({"parent": {"parent": {"binary_name": "specimen"}}}, DOES_NOT, id="parent of the parent"),
        pytest.param({"ancestor": {"binary_name": "PARENT"}}, MATCHES, id="ancestor, the nearest"),
        pytest.param({"ancestor": {"uid": 0, "not": {"binary_name": "PARENT"}}}, MATCHES, id="ancestor, farther up"),
        pytest.param({"ancestor": {"binary_name": "specimen"}}, DOES_NOT, id="ancestor is not itself"),
        pytest.param({"min_age": "1ms"}, MATCHES, id="min_age"),
        pytest.param({"min_age": "24h"}, DOES_NOT, id="min_age, not reached"),
        pytest.param({"any": [{"uid": 0}, {"cmdline": "zone"}]}, MATCHES, id="any"),
        pytest.param({"any": [{"uid": 0}, {"cmdline": "none"}]}, DOES_NOT, id="any, none of them"),
        pytest.param({"not": [{"uid": 0}, {"cmdline": "none"}]}, MATCHES, id="not"),
        pytest.param({"not": [{"uid": 0}, {"cmdline": "zone"}]}, DOES_NOT, id="not, one of them"),
        pytest.param({"not": {"any": [{"uid": 0}, {"not": {"exe": "*python*"}}]}}, MATCHES, id="nested"),
        pytest.param({"binary_name": "specimen", "uid": 0}, DOES_NOT, id="not all keys"),
        pytest.param({"systemd_unit": "*", "cwd": "/"}, DOES_NOT, id="in no unit"),
    ],
)
def test_key_matches_or_does_not(specimen: Specimen, selector: dict[str, Any], expected: Outcome) -> None:
    filled_in = _filled_in(selector, _texts(specimen))

    assert outcome(filled_in, specimen.process.pid) is expected
    assert outcome({"not": filled_in}, specimen.process.pid) is expected.opposite


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A control group of ours, in the hierarchy whose path is looked at."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    wanted = "name=systemd" if any(line[1] == "name=systemd" for line in lines) else None
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    roots = [
        mount[1]
        for mount in mounts
        if (mount[2] == "cgroup2" if wanted is None else mount[2] == "cgroup" and wanted in mount[3].split(","))
    ]
    path = Path(roots[0] if roots else "/sys/fs/cgroup", f"specimen-{secrets.token_hex(4)}")
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield path
    for directory in [*sorted(path.rglob("*/"), reverse=True), path]:
        directory.rmdir()


def test_keys_of_the_control_group_follow_where_a_process_is_moved(cgroup: Path) -> None:
    inner = cgroup / "shop.service" / f"docker-{CONTAINER}.scope"
    inner.mkdir(parents=True)
    keys = {"cgroup": f"*{cgroup.name}*", "systemd_unit": "shop.*", "container_id": CONTAINER[:12]}
    with living() as process:
        assert {outcome({key: value}, process.pid) for key, value in keys.items()} == {DOES_NOT}

        (inner / "cgroup.procs").write_text(str(process.pid))

        assert {outcome({key: value}, process.pid) for key, value in keys.items()} == {MATCHES}
        assert outcome({"container_id": CONTAINER[1:]}, process.pid) is DOES_NOT
        assert outcome({"systemd_unit": "*.scope"}, process.pid) is DOES_NOT
        assert outcome({"cgroup": cgroup.name}, process.pid) is DOES_NOT


def test_what_cannot_be_read_neither_matches_nor_does_not() -> None:
    """As somebody else than root, who may read the command line but not the environment."""
    selectors: list[tuple[dict[str, Any], Outcome]] = [
        ({"environ": {"APP": "shop"}}, UNKNOWN),
        ({"not": {"environ": {"APP": "shop"}}}, UNKNOWN),
        ({"exe": "*"}, UNKNOWN),
        ({"not": {"exe": "/none"}}, UNKNOWN),
        ({"cwd": "*"}, UNKNOWN),
        ({"library": "*"}, UNKNOWN),
        ({"listens_on": "1-65535"}, UNKNOWN),
        ({"environ": {"APP": "shop"}, "uid": 0}, UNKNOWN),
        ({"environ": {"APP": "shop"}, "uid": NOBODY}, DOES_NOT),
        ({"not": {"environ": {"APP": "shop"}, "uid": NOBODY}}, MATCHES),
        ({"any": [{"environ": {"APP": "shop"}}, {"uid": 0}]}, MATCHES),
        ({"any": [{"environ": {"APP": "shop"}}, {"uid": NOBODY}]}, UNKNOWN),
        ({"uid": 0, "cmdline": "python", "user": "root"}, MATCHES),
    ]
    with living(environ={"APP": "shop"}) as process:
        found = as_nobody(lambda: [outcome(selector, process.pid) for selector, _ in selectors])

    assert found == [expected for _, expected in selectors]


def test_hostile_command_line_costs_linear_time() -> None:
    """A pattern on which a backtracking engine would not come to an end, on a megabyte that is no text."""
    with living(b"\xff" + b"a" * 120_000, *(["a" * 120_000] * 9)) as process:
        assert outcome({"cmdline": r"(a|aa)+(a|aa)+(a|aa)+!$"}, process.pid) is DOES_NOT
        assert outcome({"not": {"cmdline": r"(a*)*(a*)*!"}}, process.pid) is MATCHES
        found = verdict({"cmdline": r"(?P<rest>\\xff.*)"}, process.pid)

    assert found.groups["rest"].startswith(r"\xffaaa")
    assert len(found.groups["rest"]) < 4096


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param(
            {"cmdline": [r"--role=(?P<role>\w+)", r"zone=(?P<zone>.)"]}, {"role": "web", "zone": "b"}, id="all"
        ),
        pytest.param(
            {"cmdline": r"--role=(?P<role>\w+)|(?P<other>none)"}, {"role": "web", "other": ""}, id="no part in it"
        ),
        pytest.param(
            {"any": [{"cmdline": "(?P<a>role)"}, {"cmdline": "(?P<b>zone)"}]}, {"a": "role"}, id="first of any"
        ),
        pytest.param(
            {"any": [{"cmdline": "(?P<a>role)", "uid": 0}, {"cmdline": "(?P<b>zone)"}]},
            {"b": "zone"},
            id="of what matches",
        ),
        pytest.param(
            {"any": [{"cmdline": "(?P<a>role)", "cwd": "/"}, {"cmdline": "(?P<b>zone)"}]},
            {"b": "zone"},
            id="left again",
        ),
        pytest.param({"not": {"cmdline": "(?P<a>role)", "uid": 0}}, {}, id="not"),
        pytest.param({"parent": {"cmdline": "(?P<a>.)"}}, {}, id="parent"),
        pytest.param({"cmdline": "(?P<a>role)", "uid": 0}, {}, id="no match"),
    ],
)
@pytest.mark.parametrize("explain", [False, True], ids=["in passing", "explained"])
def test_named_groups_are_those_of_the_patterns_that_made_it_match(
    specimen: Specimen, selector: dict[str, Any], expected: dict[str, str], explain: bool
) -> None:
    assert verdict(selector, specimen.process.pid, explain=explain).groups == expected


def look(
    table: Mapping[int, Process], pid: int, selector: dict[str, Any], *, reads: list[str] | None = None
) -> Verdict:
    """Hold the selector against a process of that table, noting which facts are read."""

    class Noted(Facts):
        def __getattribute__(self, name: str) -> Any:
            if reads is not None and name in FACTS:
                reads.append(name)
            return super().__getattribute__(name)

    return evaluate(selector_of(selector), table[pid], Observation(table, time.monotonic(), Noted))


def made_up(pid: int, *, ppid: int = 1, name: str = "x") -> Process:
    return Process(pid, ppid, name, "S", 1, start_ticks=1, start_stack=1, arg_start=1)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param({"binary_name": "none", "exe": "*", "library": "*"}, [], id="name first"),
        pytest.param({"min_age": "24h", "exe": "*"}, [], id="age before what is read"),
        pytest.param({"exe": "/none", "uid": 0, "cmdline": "x", "listens_on": 1}, ["exe"], id="executable"),
        pytest.param({"uid": 4711, "cmdline": "x", "library": "*"}, ["uid"], id="user"),
        pytest.param({"cmdline": "no such", "listens_on": 1, "library": "*"}, ["cmdline"], id="title before the dear"),
        pytest.param({"any": {"cwd": "/none"}, "library": "*"}, ["cwd"], id="others before the dear"),
        pytest.param({"not": {"argv0": "*"}, "library": "*"}, ["argv0"], id="not before the dear"),
        pytest.param({"parent": {"binary_name": "none"}, "library": "*"}, [], id="parent before the dear"),
    ],
)
def test_nothing_is_read_that_can_make_no_difference(selector: dict[str, Any], expected: list[str]) -> None:
    reads: list[str] = []

    assert look(process_table(), os.getpid(), selector, reads=reads).outcome is DOES_NOT
    assert sorted(set(reads)) == expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param({"binary_name": "none", "cmdline": "x"}, False, id="not got that far"),
        pytest.param({"exe": "*", "environ": {"PATH": ""}}, False, id="fixed"),
        pytest.param({"uid": 0}, True, id="user"),
        pytest.param({"not": {"cmdline": "x"}}, True, id="title"),
        pytest.param({"parent": {"binary_name": "x"}}, True, id="parent"),
        pytest.param({"any": [{"exe": "/none"}, {"cwd": "*"}]}, True, id="alternative"),
        pytest.param({"any": [{"exe": "*"}, {"cwd": "*"}]}, False, id="alternative not got to"),
    ],
)
def test_verdict_says_whether_it_can_change(selector: dict[str, Any], expected: bool) -> None:
    assert verdict(selector, os.getpid()).is_changeable is expected


def test_what_could_not_be_read_may_be_readable_later() -> None:
    gone = look({900_000_001: made_up(900_000_001)}, 900_000_001, {"exe": "*"})

    assert gone.outcome is UNKNOWN
    assert gone.is_changeable


def test_age_that_is_not_reached_has_its_time() -> None:
    with living() as process:
        found = verdict({"min_age": "24h"}, process.pid)

        assert 86_000 < found.ripe_in <= 86_400
        assert not found.is_changeable
    assert verdict({"min_age": "1ms"}, os.getpid()).ripe_in == inf


@pytest.mark.parametrize("key", ["parent", "ancestor"])
def test_parent_that_has_left_is_unknown_and_none_does_not_match(key: str) -> None:
    table = {5: made_up(5, ppid=4), 6: made_up(6, ppid=0)}

    assert look(table, 5, {key: {"binary_name": "y"}}).outcome is UNKNOWN
    assert look(table, 6, {key: {"binary_name": "y"}}).outcome is DOES_NOT


def test_ancestors_in_a_circle_end_the_search() -> None:
    table = {5: made_up(5, ppid=6), 6: made_up(6, ppid=5)}

    assert look(table, 5, {"ancestor": {"binary_name": "y"}}).outcome is DOES_NOT


def test_ancestors_of_a_long_line_of_processes_are_looked_at_once() -> None:
    """Each on its own would take the square of the number."""
    length = 3000
    table = {pid: made_up(pid, ppid=pid - 1) for pid in range(1, length)}
    table[1] = made_up(1, ppid=0, name="first")
    selector = selector_of({"ancestor": {"binary_name": "first"}})
    steps: list[int] = []

    class Counted(Observation):
        def parent(self, process: Process) -> Process | Unreadable | None:
            steps.append(process.pid)
            return super().parent(process)

    observation = Counted(table, time.monotonic())
    outcomes = [evaluate(selector, process, observation).outcome for process in reversed(table.values())]

    assert outcomes == [MATCHES] * (length - 2) + [DOES_NOT]
    assert len(steps) < 3 * length
