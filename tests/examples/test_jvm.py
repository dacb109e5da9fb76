"""What a JVM does, beside what jstat, the JVM's own log and its management beans say of it."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.examples.agreement import at_rest, increase, promtool_says
from tests.examples.checks import strict_check_says
from tests.product.compiled import Target, run_target
from tests.product.exporter import EXAMPLES, PREFIX, Exporter, Samples, exporter, series, until

pytestmark = pytest.mark.bpf

CONFIG = EXAMPLES / "jvm/config.yaml"
PROGRAMS = ("jvm_gc", "jvm_safepoints", "jvm_threads", "jvm_classes", "jvm_compilations")
# Compilers that come and go are threads that the beans and jstat do not count.
OPTIONS = ("-Xmx64m", "-XX:-UseDynamicNumberOfCompilerThreads")
COLLECTORS = ("Serial", "Parallel", "G1")
ROUNDS, FULL_ROUNDS = 6, 2
CONTENDED_A_ROUND = 3

# What the log calls a pause: collector, and the operation that our label `cause` has.
PAUSES = {
    ("Pause Young", "Allocation Failure"): {
        ("Copy", "GenCollectForAllocation"),
        ("PS Scavenge", "ParallelGCFailedAllocation"),
    },
    ("Pause Young", "G1 Evacuation Pause"): {("G1 Young Generation", "G1CollectForAllocation")},
    ("Pause Young", "System.gc()"): {("PS Scavenge", "ParallelGCSystemGC")},
    ("Pause Full", "System.gc()"): {
        ("MarkSweepCompact", "GenCollectFull"),
        ("PS MarkSweep", "ParallelGCSystemGC"),
        ("G1 Old Generation", "G1CollectFull"),
    },
}
LOGGED = re.compile(r"GC\(\d+\) (Pause Young|Pause Full)(?: \(\w+\))? \(([^)]+(?:\(\))?)\) \d+M->")


@dataclass(frozen=True, slots=True)
class Watched:
    """A JVM that did some rounds: how much jstat's counters and the exporter's rose meanwhile."""

    pid: int
    jstat: Mapping[str, int]
    logged: "Counter[tuple[str, str]]"
    answer: Mapping[str, int]
    counted: Samples
    after: Samples

    def increase(self, name: str, **labels: str) -> float:
        """Return the sum of what the series with at least these labels rose by."""
        wanted = {("pid", str(self.pid)), *labels.items()}
        return sum(value for (found, have), value in self.counted.items() if found == PREFIX + name and wanted <= have)


@dataclass(frozen=True, slots=True)
class Scene:
    """An exporter, JVMs by their collector, and one that was started without the flag for monitors."""

    running: Exporter
    watched: Mapping[str, Watched]
    silent: int


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("jvm")
    subprocess.run(["javac", "-d", folder, EXAMPLES / "jvm/Load.java"], check=True, timeout=300)
    with ExitStack() as stack:
        jvms = {
            collector: stack.enter_context(load(folder, collector, "-XX:+DTraceMonitorProbes"))
            for collector in COLLECTORS
        }
        silent = stack.enter_context(load(folder, "silent"))
        running = stack.enter_context(exporter(CONFIG))
        pids = [jvm.pid for jvm in jvms.values()]
        for program in PROGRAMS:
            running.wait_attached(program, *pids, silent.pid)
        running.wait_attached("jvm_monitors", *pids)
        watched = {collector: watch(running, jvm, folder / f"{collector}.log") for collector, jvm in jvms.items()}
        yield Scene(running, watched, silent.pid)


@contextmanager
def load(folder: Path, name: str, *options: str) -> Iterator[Target]:
    """Run the compiled Load.java, with the collector of that name if it is one; its log of collections is NAME.log."""
    collector = [f"-XX:+Use{name}GC"] if name in COLLECTORS else []
    log = f"-Xlog:gc:file={folder}/{name}.log"
    with run_target("java", *OPTIONS, *collector, *options, log, "-cp", folder, "Load") as target:
        yield target


def watch(running: Exporter, jvm: Target, log: Path) -> Watched:
    """Have it do its rounds."""
    jstat_before, before = at_rest(running, lambda: jstat(jvm.pid))
    logged_before = logged_pauses(log)
    for _ in range(ROUNDS - FULL_ROUNDS):
        jvm.tell("")
    for _ in range(FULL_ROUNDS):
        answer = jvm.tell("full")
    jstat_after, after = at_rest(running, lambda: jstat(jvm.pid))
    return Watched(
        jvm.pid,
        {name: value - jstat_before[name] for name, value in jstat_after.items()},
        logged_pauses(log) - logged_before,
        {name: int(value) for name, _, value in (each.partition("=") for each in answer.split("|"))},
        increase(before, after),
        after,
    )


def jstat(pid: int) -> dict[str, int]:
    """Return those of the JVM's own counters that we compare with."""
    command = ["jstat", "-J-Djstat.showUnsupported=true", "-snap", str(pid)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    counters = dict(re.findall(r"^([\w.]+)=(\d+)$", output, re.MULTILINE))
    return {name: int(counters[name]) for name in JSTAT}


JSTAT = {
    "java.cls.loadedClasses",
    "java.cls.sharedLoadedClasses",
    "java.cls.unloadedClasses",
    "java.threads.live",
    "java.threads.started",
    "sun.ci.totalCompiles",
    "sun.gc.collector.0.invocations",
    "sun.gc.collector.1.invocations",
    "sun.rt._sync_ContendedLockAttempts",
    "sun.rt.safepoints",
}


def logged_pauses(log: Path) -> "Counter[tuple[str, str]]":
    """Return how often the log tells of each pause, by its kind and cause."""
    return Counter(LOGGED.findall(log.read_text()))


@pytest.fixture(params=COLLECTORS)
def watched(scene: Scene, request: pytest.FixtureRequest) -> Watched:
    return scene.watched[request.param]


def test_pauses_by_collector_and_cause_equal_those_of_the_jvms_log(watched: Watched) -> None:
    pauses = {
        (labels["collector"], labels["cause"]): value
        for (name, have), value in watched.counted.items()
        if name == f"{PREFIX}jvm_gc_pause_seconds_count" and (labels := dict(have))["pid"] == str(watched.pid)
    }
    expected = Counter[tuple[str, str]]()
    for pause, times in watched.logged.items():
        (label,) = PAUSES[pause] & pauses.keys()
        expected[label] += times

    assert pauses == expected
    assert sum(watched.logged.values()) > ROUNDS


def test_pauses_equal_jstats_invocations(watched: Watched) -> None:
    young = watched.jstat["sun.gc.collector.0.invocations"]
    full = watched.jstat["sun.gc.collector.1.invocations"]

    assert full == FULL_ROUNDS
    assert watched.increase("jvm_gc_pause_seconds_count") == young + full


def test_a_memory_pool_holds_after_a_collection_what_the_jvms_bean_says(watched: Watched) -> None:
    pools = {name: value for name, value in watched.answer.items() if name not in ("started", "live")}

    assert len(pools) >= 3
    for pool, used in pools.items():
        labels = {"pool": pool, "pid": str(watched.pid)}
        assert watched.after[series("jvm_memory_pool_after_gc_used_bytes", **labels)] == used
        assert watched.after[series("jvm_memory_pool_after_gc_committed_bytes", **labels)] >= used


def test_a_pool_without_a_limit_has_no_maximum(watched: Watched) -> None:
    labels = {"pid": str(watched.pid)}

    assert series("jvm_memory_pool_max_bytes", pool="Metaspace", **labels) not in watched.after
    assert watched.after[series("jvm_memory_pool_max_bytes", pool="Compressed Class Space", **labels)] == 1 << 30


def test_threads_equal_jstats(watched: Watched) -> None:
    assert watched.increase("jvm_threads_started_total") == watched.jstat["java.threads.started"] == 5 * ROUNDS
    assert watched.increase("jvm_threads_stopped_total") == 5 * ROUNDS
    assert watched.increase("jvm_threads_live_change") == watched.jstat["java.threads.live"] == 0


def test_loaded_classes_equal_jstats(watched: Watched) -> None:
    loaded, shared = watched.jstat["java.cls.loadedClasses"], watched.jstat["java.cls.sharedLoadedClasses"]

    assert loaded > 0
    assert watched.increase("jvm_classes_loaded_total", shared="false") == loaded
    assert watched.increase("jvm_classes_loaded_total", shared="true") == shared
    assert watched.increase("jvm_classes_unloaded_total") == watched.jstat["java.cls.unloadedClasses"]


def test_compilations_equal_jstats(watched: Watched) -> None:
    compiled = watched.jstat["sun.ci.totalCompiles"]

    assert compiled > 0
    assert watched.increase("jvm_compilations_total", success="true") == compiled
    assert watched.increase("jvm_compilation_seconds_total", success="true") > 0


def test_safepoints_equal_jstats(watched: Watched) -> None:
    assert watched.increase("jvm_safepoint_seconds_count") == watched.jstat["sun.rt.safepoints"] > 0


def test_waits_for_monitors_equal_jstats_and_those_of_our_class_our_own(watched: Watched) -> None:
    waits = watched.increase("jvm_monitor_contended_seconds_count")

    assert waits == watched.jstat["sun.rt._sync_ContendedLockAttempts"]
    assert watched.increase("jvm_monitor_contended_seconds_count", **{"class": "Load$Till"}) == (
        CONTENDED_A_ROUND * ROUNDS
    )


def test_without_its_flag_monitors_wait_and_the_log_says_what_for(scene: Scene) -> None:
    until(lambda: scene.running.total("targets", name="jvm_monitors", state="waiting") >= 1, "one waits")

    assert scene.running.value("enabled_programs", name="jvm_monitors", pid=scene.silent) is None
    assert "start the JVM with -XX:+DTraceMonitorProbes" in scene.running.log


def test_promtool_has_nothing_to_say(scene: Scene) -> None:
    assert promtool_says(scene.running) == []


def test_the_strict_check_has_nothing_to_say(scene: Scene) -> None:
    assert strict_check_says(CONFIG, scene.watched["G1"].pid) == []
