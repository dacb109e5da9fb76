"""Which processes are targets, and what is remembered of them; tables are made by hand or are of real processes."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.supervisor.matching import Look, Matcher, definitions
from ebpf_userspace_exporter.supervisor.processes import Process, process_table, read_process
from ebpf_userspace_exporter.supervisor.selection.facts import Facts
from ebpf_userspace_exporter.supervisor.selection.listening import ListeningSockets
from ebpf_userspace_exporter.supervisor.targets import Slot
from tests.product.exporter import comm, until
from tests.supervisor.selection.living import living, selector_of

ME = os.getpid()
SUPERVISOR = 900_000_001  # beyond every real pid, as all others that need no exec mark
RESCAN_SECONDS = 10.0


@pytest.fixture(autouse=True)
def _one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes of one age have started in the same tick, whenever in a test they are made."""
    monkeypatch.setattr(f"{__name__}.uptime", time.clock_gettime(time.CLOCK_BOOTTIME))


uptime = 0.0  # in seconds; each test has its own


def process(
    pid: int, *, comm: str = "redis-server", ppid: int = 1, state: str = "S", threads: int = 1, age: float = 3600.0
) -> Process:
    start_ticks = int((uptime - age) * os.sysconf("SC_CLK_TCK"))
    return Process(pid, ppid, comm, state, threads, start_ticks, start_stack=5, arg_start=6)


def program(
    name: str = "malloc", *, code: str = "", labels: Mapping[str, str] | None = None, most: int = 1000, **keys: Any
) -> Program:
    return Program(
        name=name,
        attachment=selector_of(keys or {"binary_name": "redis-server"}),
        target_labels={"pid": "{pid}"} if labels is None else labels,
        max_targets=most,
        code=code,
    )


@dataclass
class Looking:
    """A matcher that is asked again and again; the time is made up, and it notes of whom anything is read."""

    matcher: Matcher
    now: float = field(default_factory=time.monotonic)
    read: list[int] = field(default_factory=list)

    def after(self, seconds: float, *processes: Process, known: frozenset[Slot] = frozenset()) -> Look:
        self.now += seconds
        self.read.clear()
        return self.matcher.look({each.pid: each for each in processes}, self.now, SUPERVISOR, known)

    def slots(self, seconds: float, *processes: Process) -> set[Slot]:
        return set(self.after(seconds, *processes).targets)


def looking(*programs: Program, exclude: tuple[dict[str, Any], ...] = ()) -> Looking:
    made: list[Looking] = []

    def note(process: Process, sockets: ListeningSockets) -> Facts:
        made[0].read.append(process.pid)
        return Facts(process, sockets)

    excluded = [selector_of(keys) for keys in exclude]
    made.append(Looking(Matcher(definitions(programs), excluded, rescan_seconds=RESCAN_SECONDS, read_facts=note)))
    return made[0]


def look(*processes: Process, programs: tuple[Program, ...] = (program(),)) -> Look:
    return looking(*programs).after(0, *processes)


@pytest.fixture
def zombie() -> Iterator[int]:
    with subprocess.Popen(["/bin/true"]) as started:
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        yield started.pid


@pytest.fixture
def other_pid() -> Iterator[int]:
    """A process beside us that may be looked at; our parent may be one that nobody may."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as started:
        yield started.pid
        started.communicate()


def living_process(pid: int) -> Process:
    found = read_process(pid)
    assert found is not None
    return found


# Who is a target


def test_every_program_has_a_target_on_every_process_that_matches() -> None:
    programs = (program("a"), program("b"), program("c", binary_name="nginx"))

    assert set(look(process(ME), programs=programs).targets) == {Slot("a", ME), Slot("b", ME)}


def test_name_is_compared_as_the_kernel_keeps_it() -> None:
    programs = (program("a", binary_name="ebpf-userspace-exporter"), program("b", binary_name="ebpf-userspace"))

    assert set(look(process(ME, comm="ebpf-userspace-"), programs=programs).targets) == {Slot("a", ME)}


def test_target_carries_what_tells_it_from_others() -> None:
    [definition] = definitions([program(labels={"pid": "{pid}", "app": "{comm}"})]).values()
    [found] = look(process(ME), programs=(definition.program,)).targets.values()
    executable = os.stat("/proc/self/exe")  # noqa: PTH116 - what is asked for

    assert found.definition == definition.digest
    assert found.start_ticks == pytest.approx(process(ME).start_ticks, abs=1000)
    assert (found.exec_mark.start_stack, found.exec_mark.arg_start) == (5, 6)
    assert (found.exec_mark.exe_device, found.exec_mark.exe_inode) == (executable.st_dev, executable.st_ino)
    assert found.labels == (("pid", str(ME)), ("app", "redis-server"))


def test_changed_program_has_another_digest() -> None:
    before, after = (definitions([program(code=code)])["malloc"].digest for code in ("int x;", "int y;"))

    assert before != after
    assert definitions([program(code="int x;")])["malloc"].digest == before


def test_the_supervisor_and_what_it_has_forked_are_never_targets_nor_looked_at() -> None:
    child = process(SUPERVISOR + 1, ppid=SUPERVISOR, comm="gunicorn")
    watched = looking(program())

    found = watched.after(0, process(SUPERVISOR), child, process(ME, ppid=child.pid))

    assert found == Look({}, frozenset(), frozenset(), {})
    assert watched.read == []


def test_dead_process_is_no_target(zombie: int) -> None:
    assert look(process(zombie, state="Z")) == Look({}, frozenset(), frozenset(), {})


def test_process_that_cannot_be_told_from_others_is_no_new_target_and_said_to_be_so(zombie: int) -> None:
    """Its executable cannot be seen: as here when it has ended, or in the midst of an exec."""
    assert look(process(zombie)) == Look({}, frozenset(), frozenset({Slot("malloc", zombie)}), {})


def test_process_whose_first_thread_has_exited_is_told_apart() -> None:
    assert look(process(ME, state="Z", threads=3)) == Look({}, frozenset({Slot("malloc", ME)}), frozenset(), {})


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        pytest.param({"binary_name": "redis-server"}, set(), id="name"),
        pytest.param({"exe": "*python*"}, set(), id="what has to be read"),
        pytest.param({"binary_name": "nginx"}, {Slot("a", ME), Slot("b", ME)}, id="somebody else"),
    ],
)
def test_process_that_is_excluded_is_nobodys_target(exclude: dict[str, Any], expected: set[Slot]) -> None:
    watched = looking(program("a"), program("b"), exclude=({"uid": 4711}, exclude))

    assert watched.slots(0, process(ME)) == expected


def test_exclusion_is_not_asked_about_processes_that_nobody_wants() -> None:
    watched = looking(program(), exclude=({"cmdline": "x"},))

    watched.after(0, process(ME, comm="nginx"))

    assert watched.read == []


# What is over max_targets


def test_program_has_no_more_targets_than_it_may(other_pid: int) -> None:
    processes = process(ME, age=10), process(other_pid, age=20)
    programs = program("a", most=1), program("b", most=2)

    found = look(*processes, programs=programs)

    assert set(found.targets) == {Slot("a", other_pid), Slot("b", ME), Slot("b", other_pid)}
    assert found.left_out == {"a": 1}


def test_known_target_stays_though_older_processes_match(other_pid: int) -> None:
    processes = process(ME, age=10), process(other_pid, age=20)

    found = looking(program(most=1)).after(0, *processes, known=frozenset({Slot("malloc", ME)}))

    assert set(found.targets) == {Slot("malloc", ME)}
    assert found.left_out == {"malloc": 1}


def test_known_target_that_cannot_be_told_now_has_its_place(zombie: int) -> None:
    found = looking(program(most=1)).after(0, process(ME), process(zombie), known=frozenset({Slot("malloc", zombie)}))

    assert found.targets == {}
    assert found.unreadable == {Slot("malloc", zombie)}
    assert found.left_out == {"malloc": 1}


# What is remembered


def test_of_thousands_of_processes_that_have_not_changed_nothing_is_read() -> None:
    processes = [
        process(pid, comm="redis-server" if pid % 10 else "nginx") for pid in range(SUPERVISOR + 1, SUPERVISOR + 2001)
    ]
    watched = looking(
        program("a"),
        program("b", exe="/none/*", cmdline="x"),
        program("c", binary_name="redis-server", cmdline="no such"),
    )
    watched.after(0, *processes)
    assert len(set(watched.read)) == 2000

    watched.after(RESCAN_SECONDS - 1, *processes)

    assert watched.read == []


def test_executable_is_asked_for_when_the_line_of_the_table_was_read_again() -> None:
    with subprocess.Popen(["sh", "-c", "read line; exec sleep 60"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        slot, line, watched = Slot("malloc", child.pid), process(child.pid), looking(program())
        before = watched.after(1, line).targets[slot]
        read_again = replace(line)
        the_same = watched.after(1, read_again).targets[slot]
        child.stdin.write(b"\n")
        child.stdin.flush()
        until(lambda: comm(child.pid) == "sleep", "it executes something else")
        unread = watched.after(1, read_again).targets[slot]
        another = watched.after(1, line).targets[slot]
        child.kill()

    assert the_same is before
    assert unread is before
    assert another.exec_mark.exe_inode != before.exec_mark.exe_inode


def test_process_whose_fixed_keys_do_not_match_is_never_read_again() -> None:
    watched = looking(program(exe="/none/*", cmdline="x"), program("b", environ={"NONE": "x"}, library="*"))
    first = process(ME)
    watched.after(0, first)
    assert watched.read != []

    watched.after(24 * 3600, first)

    assert watched.read == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"comm": "renamed"}, id="name"),
        pytest.param({"ppid": 2}, id="parent"),
        pytest.param({"start_stack": 7}, id="stack"),
        pytest.param({"arg_start": 7}, id="arguments"),
        pytest.param({"start_ticks": 7}, id="start"),
    ],
)
def test_change_that_the_table_shows_is_looked_at_at_once(change: dict[str, Any]) -> None:
    first = process(ME)
    watched = looking(program(exe="/none"))
    watched.after(0, first)

    watched.after(0, replace(first, **change))

    assert watched.read == [ME]


def test_what_can_change_is_read_again_every_rescan_interval() -> None:
    first = process(ME)
    watched = looking(program(cmdline="no such"))

    def reads(seconds: float) -> bool:
        watched.after(seconds, first)
        return watched.read == [ME]

    assert [reads(0), reads(9.9), reads(0.2), reads(9.9), reads(0.2)] == [True, False, True, False, True]


def test_only_programs_that_may_come_out_differently_are_asked_again() -> None:
    read: list[str] = []

    class Noted(Facts):
        def __getattribute__(self, name: str) -> Any:
            if name in ("exe", "cwd"):
                read.append(name)
            return super().__getattribute__(name)

    programs = definitions([program("fixed", exe="/none"), program("changes", cwd="/none")])
    matcher = Matcher(programs, rescan_seconds=RESCAN_SECONDS, read_facts=Noted)
    first, now = process(ME), time.monotonic()
    matcher.look({ME: first}, now, SUPERVISOR)
    assert sorted(read) == ["cwd", "exe"]
    read.clear()

    matcher.look({ME: first}, now + RESCAN_SECONDS, SUPERVISOR)

    assert read == ["cwd"]


def test_young_process_is_read_again_when_it_is_twice_as_old() -> None:
    first = process(ME, age=1.0)
    watched = looking(program(cmdline="no such"))
    ages: list[float] = []
    for tenth in range(400):
        watched.after(0.1, first)
        if watched.read:
            ages.append(1.0 + tenth / 10)

    assert ages == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, 26.0, 36.0], rel=0.2)


def test_process_that_has_just_been_forked_is_read_at_the_next_look() -> None:
    """PostgreSQL's children have their parent's title for a moment."""
    watched = looking(program(cmdline="no such"))
    newborn = process(ME, age=0.01)

    for seconds in (0, 1):
        watched.after(seconds, newborn)
        assert watched.read == [ME]


def test_age_is_looked_at_when_it_is_reached() -> None:
    first = process(ME, age=0.5)
    watched = looking(program(min_age="20s", exe="*"))

    assert watched.slots(0, first) == set()
    assert watched.slots(19, first) == set()
    assert watched.read == []
    assert watched.slots(0.6, first) == {Slot("malloc", ME)}
    assert watched.slots(3600, first) == {Slot("malloc", ME)}
    assert watched.read == []


def test_process_that_has_left_is_forgotten() -> None:
    watched = looking(program())
    watched.after(0, process(ME))

    watched.after(0)

    assert watched.matcher._judgements == {}


def test_process_that_is_losing_its_memory_is_what_it_was() -> None:
    """In the midst of an exec and at its end nothing of it can be read, which does not mean that it is not wanted."""
    with living() as target:
        before = living_process(target.pid)
        watched = looking(program(exe="*python*", cmdline="import"))
        assert watched.slots(0, before) == {Slot("malloc", target.pid)}
    passing = replace(before, start_stack=0, arg_start=0, comm="renamed")

    assert watched.after(60, passing).unreadable == {Slot("malloc", target.pid)}
    assert watched.after(1, replace(passing, state="Z", threads=2)).leaderless == {Slot("malloc", target.pid)}
    assert watched.after(1, replace(before, start_ticks=1)) == Look({}, frozenset(), frozenset(), {})


# Labels


def labels_of(found: Look) -> dict[str, str]:
    [target] = found.targets.values()
    return dict(target.labels)


def test_labels_are_kept_when_the_title_changes_and_made_anew_after_an_exec() -> None:
    titled = program(cmdline=r"role=(?P<role>\w+)", labels={})
    with living("role=first") as target:
        watched = looking(titled)
        assert labels_of(watched.after(0, living_process(target.pid))) == {"role": "first"}

        target.set_title("role=second")
        assert labels_of(watched.after(60, living_process(target.pid))) == {"role": "first"}
        target.set_title("nothing")
        assert watched.slots(60, living_process(target.pid)) == set()
        target.set_title("role=third")
        assert labels_of(watched.after(60, living_process(target.pid))) == {"role": "first"}

        executed = replace(living_process(target.pid), start_stack=4711)
        assert labels_of(watched.after(0, executed)) == {"role": "third"}


def test_labels_of_programs_that_stay_are_kept_over_a_reload() -> None:
    stays, changes = (program(name, cmdline=r"role=(?P<role>\w+)", labels={}) for name in ("stays", "changes"))
    with living("role=first") as target:
        watched = looking(stays, changes)
        watched.after(0, living_process(target.pid))
        target.set_title("role=second")

        changed = changes.model_copy(update={"code": "int x;"})
        watched.matcher.define(definitions([stays, changed]))
        found = watched.after(0, living_process(target.pid))

    labels = {slot.program: dict(target.labels)["role"] for slot, target in found.targets.items()}
    assert labels == {"stays": "first", "changes": "second"}


# A few processes between two looks


def concerned(watched: Looking, before: list[Process], after: list[Process], *pids: int) -> bool:
    """Look at the processes as they were; return whether those with the pids, as they are, make another look due."""
    watched.after(0, *before)
    watched.read.clear()
    return watched.matcher.concerns(pids, {each.pid: each for each in after}, watched.now)


OTHER = SUPERVISOR + 10


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param([], [process(OTHER)], True, id="new and matches"),
        pytest.param([], [process(OTHER, comm="nginx")], False, id="new and nobody's"),
        pytest.param([process(OTHER, comm="nginx")], [process(OTHER)], True, id="begins to match"),
        pytest.param([process(OTHER)], [process(OTHER, comm="nginx")], True, id="matches no more"),
        pytest.param([process(OTHER, age=9)], [process(OTHER)], True, id="number is used again"),
        pytest.param([process(OTHER, age=9)], [replace(process(OTHER), start_stack=7)], True, id="executed"),
        pytest.param([process(OTHER)], [process(OTHER, state="Z", threads=2)], True, id="first thread exited"),
        pytest.param([process(OTHER)], [], False, id="gone"),
        pytest.param([process(OTHER)], [process(OTHER, state="Z")], False, id="dead"),
        pytest.param([process(SUPERVISOR)], [process(OTHER, ppid=SUPERVISOR)], False, id="our child"),
    ],
)
def test_few_processes_make_a_look_due_where_it_would_come_out_differently(
    before: list[Process], after: list[Process], expected: bool
) -> None:
    assert concerned(looking(program()), before, after, OTHER) is expected


def test_target_that_is_the_same_makes_no_look_due() -> None:
    assert not concerned(looking(program()), [process(ME)], [process(ME)], ME)


def test_only_the_few_are_read() -> None:
    processes = [process(OTHER + number) for number in range(10)]
    watched = looking(program(exe="/none", binary_name="redis-server"))

    concerned(watched, processes, [replace(each, start_stack=7) for each in processes], OTHER, OTHER + 1)

    assert watched.read == [OTHER, OTHER + 1]


def test_what_few_processes_have_become_is_known_to_the_next_look() -> None:
    watched = looking(program(cmdline=""))
    assert concerned(watched, [], [process(ME)], ME)
    watched.read.clear()

    assert watched.slots(0, process(ME)) == {Slot("malloc", ME)}
    assert watched.read == []


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        pytest.param([program()], False, id="other names"),
        pytest.param([program(), program("b", binary_name="ebpf-userspace-exporter")], True, id="its name"),
        pytest.param([program(), program("b", exe="*")], True, id="any name"),
        pytest.param([], False, id="no program"),
    ],
)
def test_name_rules_out_what_no_program_is_for(programs: list[Program], expected: bool) -> None:
    assert looking(*programs).matcher.may_mean("ebpf-userspace-") is expected


# Reload


def test_reload_takes_effect_at_once() -> None:
    watched = looking(program("a"))
    assert watched.slots(0, process(ME)) == {Slot("a", ME)}

    watched.matcher.define(definitions([program("b"), program("c", exe="*python*")]))
    assert watched.slots(0, process(ME)) == {Slot("b", ME), Slot("c", ME)}

    watched.matcher.define(definitions([program("b")]), [selector_of({"binary_name": "redis-server"})])
    assert watched.slots(0, process(ME)) == set()


def test_two_targets_may_have_the_same_labels(other_pid: int) -> None:
    found = look(process(ME), process(other_pid), programs=(program(labels={"app": "{comm}"}),))

    assert [target.labels for target in found.targets.values()] == [(("app", "redis-server"),)] * 2


def test_all_real_processes_are_looked_at_without_an_error() -> None:
    """Kernel threads, those that leave meanwhile, and whatever else runs here."""
    every: dict[str, Any] = {
        "any": [{"listens_on": "1-65535"}, {"library": "*"}, {"environ": {"PATH": ""}}, {"not": {"exe": "*"}}]
    }
    labels = {"a": "{exe}{user}{cgroup}{systemd_unit}{container_id}{environ.PATH}"}
    matcher = Matcher(definitions([program(labels=labels, most=100_000, **every)]), rescan_seconds=RESCAN_SECONDS)
    table = process_table()

    with living() as target:
        table[target.pid] = living_process(target.pid)
    found = matcher.look(table, time.monotonic(), SUPERVISOR)

    assert Slot("malloc", ME) in found.targets
    assert Slot("malloc", target.pid) not in found.targets
