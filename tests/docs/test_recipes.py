"""The recipes, and the example of stacks, count what really happens."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import blocks
from tests.product.compiled import Target, compile_c, run_target
from tests.product.exporter import PREFIX, comm, exporter, series, until
from tests.product.programs import PYTHON

pytestmark = pytest.mark.bpf

NAME = f"recipe{os.getpid()}"

_CALLERS = """
#include <stdio.h>
#include <stdlib.h>
static void *volatile kept;
static inline __attribute__((always_inline)) void ask(size_t bytes) { kept = malloc(bytes); free(kept); }
__attribute__((noinline)) void parse(void) { ask(100); ask(1000); kept = 0; }
static __attribute__((noinline)) void render(void) { ask(7); kept = 0; }
int main(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        parse(); render(); render(); parse();
        puts("done");
        fflush(stdout);
    }
}
"""

# Runs each line, and answers without write(): that is one of the functions which are counted.
_PYTHON = f"""
import fcntl, os, socket, threading, time
with open("/proc/self/comm", "w") as comm: comm.write({NAME!r})
def run(line):
    begin = time.monotonic()
    exec(line, globals())
    return time.monotonic() - begin
while line := os.read(0, 4096): os.writev(1, [b"%f\\n" % run(line)])
"""


def recipe(program: str) -> str:
    """Return the config of that program, for processes of our name."""
    texts = [block.text for block in blocks() if block.page == "recipes.md"]
    [text] = [text for text in texts if yaml.safe_load(text)["programs"][0]["name"] == program]
    return text.replace("binary_name: python3", f"binary_name: {NAME}")


@contextlib.contextmanager
def python() -> Iterator[Target]:
    with run_target(PYTHON, "-c", _PYTHON) as target:
        until(lambda: comm(target.pid) == NAME, "it has its name")
        yield target


def test_calls_and_bytes_are_by_the_function_that_calls(tmp_path: Path) -> None:
    program = compile_c(_CALLERS, tmp_path / NAME, "-fno-builtin")
    with run_target(program) as target, exporter(recipe("allocations")) as running:
        running.wait_attached("allocations", target.pid)
        for _ in range(5):
            target.tell("go")

        for caller, calls, total in (("parse", 20, 11000), ("render", 10, 70)):
            assert running.value("malloc_calls_total", caller=caller, pid=target.pid) == calls
            assert running.value("malloc_bytes_total", caller=caller, pid=target.pid) == total


@pytest.mark.parametrize("last", [26, 2])
def test_every_latency_is_in_a_bucket_and_in_the_sum(last: int, tmp_path: Path) -> None:
    config = recipe("fsync_latency").replace(" 26\n", f" {last}\n").replace(" 26  ", f" {last}  ")
    with python() as target, exporter(config) as running:
        running.wait_attached("fsync_latency", target.pid)
        target.tell(f"file = os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_RDWR)")
        seconds = float(target.tell("[(os.pwrite(file, b'x', 0), os.fsync(file)) for _ in range(50)]"))
        samples = running.scrape()

    assert samples[series("fsync_seconds_count", pid=target.pid)] == 50
    assert 0 < samples[series("fsync_seconds_sum", pid=target.pid)] <= seconds
    assert not any(name.startswith(PREFIX + "decode_errors") for name, _ in samples)


def test_every_size_is_in_the_smallest_bucket_that_has_it() -> None:
    sizes = [0, 0, *range(1, 20), 31, 32, 33, 4095, 4096, 4097, 32768, 32769, 65535, 65536, 65537, 10**6]
    with python() as target, exporter(recipe("write_sizes")) as running:
        running.wait_attached("write_sizes", target.pid)
        target.tell("null = os.open('/dev/null', os.O_WRONLY)")
        target.tell(f"for size in {sizes}: os.write(null, bytes(size))")
        samples = running.scrape()

    found = {
        float(dict(labels)["le"]): count
        for (name, labels), count in samples.items()
        if name == PREFIX + "write_bytes_bucket"
    }
    expected = {bound: sum(size <= bound for size in sizes) for bound in (0.0, *(2.0**power for power in range(16)))}
    assert found == {**expected, 2.0**16: len(sizes), float("inf"): len(sizes)}
    assert samples[series("write_bytes_sum", pid=target.pid)] == sum(sizes)


def test_processes_of_one_role_are_one_series() -> None:
    script = f"shop{os.getpid()}.py"
    with contextlib.ExitStack() as stack:
        roles = ["web", "web", "mail"]
        targets = [stack.enter_context(run_target(PYTHON, "-c", _PYTHON, script, f"--role={role}")) for role in roles]
        config = recipe("collections_by_role").replace(r"shop\.py", script)
        running = stack.enter_context(exporter(config))
        running.wait_attached("collections_by_role", *(target.pid for target in targets))
        for number, target in enumerate(targets, 1):
            target.tell(f"import gc; gc.disable(); [gc.collect(1) for _ in range({10**number})]")

        found = running.values("gc_by_role_total", gen=1)

    expected = {frozenset({("gen", "1"), ("role", role)}): total for role, total in (("web", 110), ("mail", 1000))}
    assert found == expected


def test_calls_that_have_not_returned_are_counted_and_those_from_before_never(tmp_path: Path) -> None:
    wait = f"fcntl.flock(os.open({str(tmp_path)!r}, os.O_RDONLY), fcntl.LOCK_SH)"
    start = f"threading.Thread(target=lambda: {wait}, daemon=True).start()"
    lock = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with python() as target:
            target.tell(start)
            until(lambda: _waiting(target.pid) == 1, "the first one waits")
            with exporter(recipe("lock_waits")) as running:
                running.wait_attached("lock_waits", target.pid)
                target.tell(f"for _ in range(3): {start}")
                until(lambda: running.value("flock_running", pid=target.pid) == 3, "three are inside")

                fcntl.flock(lock, fcntl.LOCK_UN)
                until(lambda: _waiting(target.pid) == 0, "all are through")
                until(lambda: running.value("flock_running", pid=target.pid) == 0, "none is inside")
    finally:
        os.close(lock)


def _waiting(pid: int) -> int:
    """Return how many of a process's threads wait for a file's lock."""
    waiting = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            waiting += (task / "wchan").read_text() == "locks_lock_inode_wait"
    return waiting


def test_events_are_by_the_last_two_parts_of_their_names() -> None:
    names = {"a.example.org": 3, "b.c.example.org": 4, "example.net": 5, "localhost": 6}
    with python() as target, exporter(recipe("lookups_by_domain")) as running:
        running.wait_attached("lookups_by_domain", target.pid)
        for name, times in names.items():
            for _ in range(times):
                target.tell(_lookup(name))
        found = running.values("lookups_by_domain_total", pid=target.pid)

    by_domain = {dict(labels)["domain"]: count for labels, count in found.items()}
    assert by_domain == {"example.org": 7, "example.net": 5, "localhost": 6}


def _lookup(name: str) -> str:
    """Return a line that asks for a name's address, and nobody beyond libc for the answer."""
    return (
        f"with __import__('contextlib').suppress(OSError): socket.getaddrinfo({name!r}, 1, flags=socket.AI_NUMERICHOST)"
    )


def test_a_stack_behind_a_functions_first_instructions_has_its_caller(tmp_path: Path) -> None:
    [source] = [block.text for block in blocks() if block.name == "orders.c"]
    [config] = [block.text for block in blocks() if block.name == "orders.yaml"]
    options = ("-fno-omit-frame-pointer", "-fno-optimize-sibling-calls")
    with (
        run_target(compile_c(source, tmp_path / NAME, *options)) as target,
        exporter(config.replace("binary_name: orders", f"binary_name: {NAME}")) as running,
    ):
        running.wait_attached("reservations", target.pid)
        target.tell("")
        until(lambda: running.total("reserved_items_total") == 3, "both ways were gone")

        for way, items in (("basket", 2), ("gift", 1)):
            stack = f"libc.so.6;main;{way};reserve"
            assert running.value("reserved_items_total", stack=stack, pid=target.pid) == items
