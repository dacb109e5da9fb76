"""A JVM that was not told to fire a probe is told from one that was, as the JVM itself sees it."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.hotspot import check_flags, missing_flag
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason

JAVA = shutil.which("java")
needs_java = pytest.mark.skipif(JAVA is None, reason="needs java")

PROBES = {
    "DTraceMonitorProbes": "hotspot:monitor__contended__enter",
    "DTraceAllocProbes": "object__alloc",
    "DTraceMethodProbes": "hotspot:method__entry",
}
OPTIONS = {
    "none": ([], {}),
    "one": (["-XX:+DTraceMonitorProbes"], {}),
    "all": (["-XX:+ExtendedDTraceProbes"], {}),
    "all but one": (["-XX:+ExtendedDTraceProbes", "-XX:-DTraceAllocProbes"], {}),
    "one off, then all": (["-XX:-DTraceAllocProbes", "-XX:+ExtendedDTraceProbes"], {}),
    "one, then not all": (["-XX:+DTraceMethodProbes", "-XX:-ExtendedDTraceProbes"], {}),
    "on, then off": (["-XX:+DTraceMethodProbes", "-XX:-DTraceMethodProbes"], {}),
    "JAVA_TOOL_OPTIONS": ([], {"JAVA_TOOL_OPTIONS": "-Xmx64m '-XX:+DTraceAllocProbes'"}),
    "JDK_JAVA_OPTIONS": ([], {"JDK_JAVA_OPTIONS": '"-XX:+DTraceMonitorProbes"\n-XX:+DTraceMethodProbes'}),
    "_JAVA_OPTIONS after the command line": (
        ["-XX:+ExtendedDTraceProbes"],
        {"_JAVA_OPTIONS": "-XX:-DTraceMonitorProbes"},
    ),
    "the command line after JAVA_TOOL_OPTIONS": (
        ["-XX:-DTraceMonitorProbes"],
        {"JAVA_TOOL_OPTIONS": "-XX:+ExtendedDTraceProbes"},
    ),
}


@needs_java
@pytest.mark.parametrize(("arguments", "environ"), OPTIONS.values(), ids=OPTIONS.keys())
def test_what_is_missing_is_what_the_jvm_has_not(arguments: list[str], environ: dict[str, str]) -> None:
    command = ["java", *arguments]
    run = subprocess.run(
        [*command, "-XX:+PrintFlagsFinal", "-version"],
        env={"PATH": os.environ["PATH"], **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=60,
    )
    flags = dict(re.findall(r"bool (DTrace\w+Probes)\s+= (true|false)", run.stdout))
    assert flags.keys() == PROBES.keys()
    for flag, probe in PROBES.items():
        assert missing_flag([probe], command, environ) == (None if flags[flag] == "true" else f"-XX:+{flag}")


@pytest.mark.parametrize(
    "probe", ["gc__begin", "hotspot:thread__start", "method__compile__begin", "other:method__entry", "myapp:monitor__x"]
)
def test_other_probes_need_no_flag(probe: str) -> None:
    assert missing_flag([probe], ["java", "-jar", "x.jar"], {}) is None


@pytest.mark.parametrize("probe", ["monitor__wait", "monitor__notifyAll", "hotspot:method__return"])
def test_one_probe_of_several_is_enough(probe: str) -> None:
    assert missing_flag(["gc__begin", probe], ["/opt/jdk/bin/java", "-jar", "x.jar"], {}) is not None


@pytest.mark.parametrize(
    "arguments",
    [["java", "@options", "Main"], ["java", "-XX:Flags=/etc/flags"], ["java", "-XX:VMOptionsFile=x"]],
    ids=lambda arguments: arguments[1],
)
def test_options_in_files_may_say_anything(arguments: list[str]) -> None:
    assert missing_flag(["monitor__wait"], arguments, {}) is None


@pytest.mark.parametrize("arguments", [[], ["ruby", "app.rb"], ["/usr/bin/jsvc", "Main"]], ids=str)
def test_what_is_not_java_is_not_judged(arguments: list[str]) -> None:
    """Ruby has a method__entry of its own; a program with a JVM in it gives that its options itself."""
    assert missing_flag(["method__entry"], arguments, {}) is None


@contextmanager
def running_jvm(*options: str) -> Iterator[int]:
    """Run a JVM; return its pid once it has executed."""
    process = subprocess.Popen(
        ["java", *options, "-m", "java.rmi/sun.rmi.registry.RegistryImpl", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"java\0"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process.pid
    finally:
        process.kill()
        process.wait(20)


@needs_java
def test_a_running_jvm_without_the_flag_is_refused_with_what_to_do() -> None:
    message = r"does not fire it: start the JVM with -XX:\+DTraceMonitorProbes"
    with running_jvm() as pid, pytest.raises(AttachError, match=message) as caught:
        check_flags({"monitor__wait": "on_wait"}, pid)

    assert caught.value.reason is Reason.PROBE_DISABLED


@needs_java
def test_a_running_jvm_with_the_flag_is_not_refused() -> None:
    with running_jvm("-XX:+ExtendedDTraceProbes") as pid:
        check_flags({"monitor__wait": "on_wait", "method__entry": "on_entry"}, pid)


def test_a_process_that_is_gone_is_not_judged() -> None:
    process = subprocess.Popen(["true"])
    process.wait(20)

    check_flags({"monitor__wait": "on_wait"}, process.pid)
