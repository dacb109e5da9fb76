"""What SIGTERM, SIGINT and SIGHUP do, and what is left afterwards."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product.compiled import SOURCE, Target, compile_c, run_target
from tests.product.exporter import Exporter, exporter, series, start, until
from tests.product.faults import ATTACH_IDS, ATTACH_MODES, descendants, fresh, is_alive, processes_of

pytestmark = pytest.mark.bpf

NAME = f"xp-stop{os.getpid()}"  # of the targets: nobody else's exporter looks for it
STOP_SECONDS = 5.0
LOCATIONS = 3  # of app:work: each one that is probed, by however many, counts once in the semaphore
BROKEN = "programs:\n  - name: events\n    codee: int\n"


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(SOURCE, tmp_path_factory.mktemp("stop") / NAME)


@pytest.fixture
def target(binary: Path) -> Iterator[Target]:
    with run_target(binary) as target:
        yield target


def events_program(name: str = "events", factor: int = 1) -> str:
    return f"""
  - name: {name}
    attachment: {{binary_name: {NAME}}}
    uprobes: {{event: on_event}}
    uretprobes: {{event: on_return}}
    metrics:
      counters:
        - {{name: {name}_total, table: counts}}
        - {{name: {name}_returned_total, table: returned}}
    code: |
      BPF_ARRAY(counts, u64, 1);
      BPF_ARRAY(returned, u64, 1);
      int on_event(void *ctx) {{ counts.increment(0, {factor}); return 0; }}
      int on_return(void *ctx) {{ returned.increment(0, {factor}); return 0; }}
"""


def work_program(name: str = "work") -> str:
    return f"""
  - name: {name}
    attachment: {{binary_name: {NAME}}}
    usdt: {{"app:work": on_work}}
    metrics: {{counters: [{{name: {name}_total, table: counts}}]}}
    code: |
      BPF_ARRAY(counts, u64, 1);
      int on_work(void *ctx) {{ counts.increment(0); return 0; }}
"""


def config(*programs: str) -> str:
    return "programs:\n" + "".join(programs)


# Stopping


@pytest.mark.parametrize("attach", ATTACH_MODES, ids=ATTACH_IDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stop_exits_with_0_in_time_and_leaves_nothing(
    target: Target, attach: dict[str, str], number: signal.Signals
) -> None:
    untouched = target.tell("code")
    with exporter(config(events_program(), work_program()), environment=attach) as running:
        running.wait_attached("events", target.pid)
        running.wait_attached("work", target.pid)
        fresh(running)
        assert target.tell("code") != untouched, "the probes are in the target's memory"
        assert target.semaphore() == LOCATIONS
        children = descendants(running.process.pid)
        assert len(children) >= 4  # two workers, gunicorn and its own

        begin = time.monotonic()
        exit_code = running.stop(number)
        seconds = time.monotonic() - begin

        assert exit_code == 0
        assert seconds < STOP_SECONDS
        assert [pid for pid in children if is_alive(pid)] == []
        assert processes_of(running.folder) == set()
        assert target.tell("code") == untouched
        assert target.semaphore() == 0
        assert not running.state_dir.exists()
        assert "level=error" not in running.log
        assert "Traceback" not in running.log


def test_a_stop_while_it_builds_leaves_nothing(target: Target) -> None:
    untouched = target.tell("code")
    with exporter(config(events_program()).replace(NAME, "xp-nobody")) as running:
        running.config.write_text(config(events_program(), work_program()))
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.children("exporter-build"), "a builder is at work")
        children = descendants(running.process.pid)

        begin = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begin < STOP_SECONDS

        assert [pid for pid in children if is_alive(pid)] == []
        assert not running.state_dir.exists()
        assert (target.tell("code"), target.semaphore()) == (untouched, 0)


def test_a_stop_while_it_starts_leaves_nothing(target: Target) -> None:
    folder = Path(tempfile.mkdtemp(prefix="exporter-test-"))
    try:
        folder.chmod(0o755)
        running = start(folder, config(events_program()))
        until(running.state_dir.exists, "it has begun to write files")

        assert running.stop() == 0

        assert not running.state_dir.exists()
        assert processes_of(folder) == set()
    finally:
        shutil.rmtree(folder)


def test_a_state_directory_that_was_there_stays_with_what_is_not_ours(target: Target) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the web user passes through
        (Path(folder) / "state").mkdir()
        running = start(Path(folder), config(events_program()))
        try:
            running.wait_ready()
            running.wait_attached("events", target.pid)
            (running.state_dir / "notes.txt").touch()
            assert list(running.state_dir.glob("counter_events-*.db"))
        finally:
            assert running.stop() == 0

        assert [path.name for path in running.state_dir.iterdir()] == ["notes.txt"]


# Reloading


@pytest.fixture
def running(target: Target) -> Iterator[Exporter]:
    with exporter(config(events_program(), work_program("kept"), work_program("removed"))) as running:
        for program in ("events", "kept", "removed"):
            running.wait_attached(program, target.pid)
        target.tell("work 2")
        target.tell("event 0 /path 10.0.0.1 1 5")
        yield running


def reload(running: Exporter, text: str) -> None:
    """Put another config in the place of the present one and wait until it has been looked at."""
    running.config.write_text(text)
    before = outcomes(running)
    running.process.send_signal(signal.SIGHUP)
    until(lambda: outcomes(running) > before, f"the config was read again; log:\n{running.log}")


def outcomes(running: Exporter) -> int:
    return running.log.count('msg="config reloaded"') + running.log.count("config not reloaded")


def test_reload_removes_adds_and_changes_programs_and_leaves_the_others_alone(
    running: Exporter, target: Target
) -> None:
    before = fresh(running)
    kept, changed = worker(running, "kept"), worker(running, "events")

    reload(running, config(events_program(factor=10), work_program("kept"), work_program("added")))
    running.wait_attached("added", target.pid)
    until(lambda: fresh(running).get(series("events_total", pid=target.pid)) == 0, "the changed one starts from 0")
    target.tell("work 1")
    target.tell("event 0 /path 10.0.0.1 1 3")
    after = fresh(running)

    assert before[series("events_total", pid=target.pid)] == 5
    assert after[series("events_total", pid=target.pid)] == 30
    assert after[series("events_returned_total", pid=target.pid)] == 30
    assert after[series("kept_total", pid=target.pid)] == before[series("kept_total", pid=target.pid)] + 3
    assert after[series("added_total", pid=target.pid)] == 3
    assert {dict(labels)["name"] for labels in running.values("enabled_programs")} == {"events", "kept", "added"}
    assert [key for key in after if "removed" in key[0]] == []
    assert list(running.state_dir.glob("*removed*")) == []
    assert worker(running, "kept") == kept
    assert worker(running, "events") != changed
    until(lambda: len(running.children("exporter-worker")) == 3, "three workers")
    assert target.semaphore() == LOCATIONS


def test_removed_programs_are_detached(running: Exporter, target: Target) -> None:
    assert target.semaphore() == LOCATIONS

    reload(running, config(events_program()))

    until(lambda: target.semaphore() == 0, "nobody on app:work")
    until(lambda: len(running.children("exporter-worker")) == 1, "one worker")
    assert [key for key in fresh(running) if ("pid", str(target.pid)) in key[1] and "events" not in str(key)] == []
    assert counted(running, target, "events_total") == 5


def test_reload_without_a_change_changes_nothing(running: Exporter, target: Target) -> None:
    text = running.config.read_text()
    before, workers = counts(running, target), set(running.children("exporter-worker"))

    reload(running, text + "# a comment\n")
    target.tell("work 1")

    assert counts(running, target) == {**before, "kept_total": before["kept_total"] + 3, "removed_total": 9}
    assert set(running.children("exporter-worker")) == workers
    assert running.log.count("msg=built") == 3


def test_a_broken_config_changes_nothing_and_is_reported_until_it_is_mended(running: Exporter, target: Target) -> None:
    good = running.config.read_text()
    before, workers = counts(running, target), set(running.children("exporter-worker"))
    loaded_at = running.value("config_last_reload_success_timestamp_seconds")

    reload(running, BROKEN)
    target.tell("work 1")

    assert running.value("config_last_reload_successful") == 0
    assert running.value("config_last_reload_success_timestamp_seconds") == loaded_at
    assert f"{running.config}:3" in running.log
    assert counts(running, target)["kept_total"] == before["kept_total"] + 3
    assert set(running.children("exporter-worker")) == workers

    reload(running, good)

    assert running.value("config_last_reload_successful") == 1
    assert (running.value("config_last_reload_success_timestamp_seconds") or 0) > (loaded_at or 0)
    assert set(running.children("exporter-worker")) == workers


def test_a_program_that_does_not_compile_any_more_goes_on_as_it_was(running: Exporter, target: Target) -> None:
    good = running.config.read_text()
    mistaken = events_program().replace("counts.increment", "mistake.increment")
    before, workers = counts(running, target), set(running.children("exporter-worker"))

    reload(running, config(mistaken, work_program("kept"), work_program("removed")))
    until(lambda: running.value("attach_failures_total", name="events", reason="compile"), "the failure is counted")
    target.tell("event 0 /path 10.0.0.1 1 3")

    assert running.value("config_last_reload_successful") == 0
    assert running.log.count("mistake") > 0
    assert counts(running, target) == {**before, "events_total": 8, "events_returned_total": 8}
    assert set(running.children("exporter-worker")) == workers

    reload(running, good)
    target.tell("event 0 /path 10.0.0.1 1 1")

    assert running.value("config_last_reload_successful") == 1
    assert counts(running, target)["events_total"] == 9
    assert set(running.children("exporter-worker")) == workers


def test_a_config_that_changes_is_read_again_by_who_was_told_to_watch_it(running: Exporter, target: Target) -> None:
    """As the folder of a ConfigMap changes: a link in the path is replaced."""
    changed = config(events_program("second"))
    with exporter(config(events_program("first")), "--reload-on-change") as watching:
        watching.wait_attached("first", target.pid)
        (watching.folder / "..new").mkdir()
        (watching.folder / "..new/programs.yaml").write_text(changed)
        (watching.folder / "..data").symlink_to("..new")
        (watching.folder / "link").symlink_to("..data/programs.yaml")
        (watching.folder / "link").rename(watching.config)
        running.config.write_text(changed)

        watching.wait_attached("second", target.pid)
        assert {dict(labels)["name"] for labels in watching.values("enabled_programs")} == {"second"}
        assert watching.log.count("config reloaded") == 1
    assert {dict(labels)["name"] for labels in running.values("enabled_programs")} == {"events", "kept", "removed"}


def test_a_config_that_is_gone_changes_nothing(running: Exporter, target: Target) -> None:
    workers = set(running.children("exporter-worker"))
    before = outcomes(running)

    running.config.unlink()
    running.process.send_signal(signal.SIGHUP)
    until(lambda: outcomes(running) > before, "the config was looked for")

    assert running.value("config_last_reload_successful") == 0
    assert str(running.config) in running.log
    assert set(running.children("exporter-worker")) == workers
    assert counts(running, target)["kept_total"] == 6


def counts(running: Exporter, target: Target) -> dict[str, float]:
    """Return what the programs have counted of the target."""
    samples = fresh(running)
    names = [f"{name}_total" for name in ("events", "events_returned", "kept", "removed")]
    return {name: samples[series(name, pid=target.pid)] for name in names}


def counted(running: Exporter, target: Target, name: str) -> float:
    return fresh(running)[series(name, pid=target.pid)]


def worker(running: Exporter, program: str) -> int:
    """Return the pid of the one worker of a program: it has its metric file mapped."""
    file = f"/counter_{program}-"
    return until(
        lambda: next((pid for pid in running.children("exporter-worker") if file in maps(pid)), None),
        f"a worker of {program}",
    )


def maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
