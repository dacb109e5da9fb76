"""Programs that cannot work stand beside one that does: they fail alone, say why, and cost nothing from then on."""

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.product.compiled import SOURCE, Target, compile_c, run_target
from tests.product.exporter import Exporter, exporter, series, until
from tests.product.faults import fresh

pytestmark = pytest.mark.bpf

GOOD_CODE = """
#include <uapi/linux/ptrace.h>
BPF_HASH(counts, u32);
int on_event(struct pt_regs *ctx) { u32 code = PT_REGS_PARM1(ctx); counts.increment(code); return 0; }
"""


@dataclass(frozen=True, slots=True)
class Bad:
    """A program that fails: with which reason, what the log must quote, and how often it may be tried."""

    reason: str
    words: str
    code: str = GOOD_CODE
    probe: str = "uprobes: {event: on_event}"
    table: str = "counts"
    key_bytes: int = 4
    tries: int = 1


# Retried after 1, 2, 4, 8, 16 seconds: another file may be mapped by then. Six is what a slow machine may come to.
WATCHED_SECONDS, TRIES_OF_RETRIED = 5.0, 6
BAD = {
    "no_c": Bad("compile", r"code:3:.*error: .*undeclared", code="\n\nint on_event(void *ctx) { return missing; }"),
    "no_null_check": Bad(
        "verifier",
        r"invalid mem access",
        code="BPF_HASH(counts, u32);\n"
        "int on_event(void *ctx) { u32 key = 0; u64 *count = counts.lookup(&key); *count += 1; return 0; }",
    ),
    "no_such_probe": Bad(
        "probe_not_found",
        "app:wrok.*did you mean app:work",
        probe='usdt: {"app:wrok": on_event}',
        tries=TRIES_OF_RETRIED,
    ),
    "no_such_symbol": Bad(
        "symbol_not_found",
        "even: it may be inlined; did you mean event",
        probe="uprobes: {even: on_event}",
        tries=TRIES_OF_RETRIED,
    ),
    "no_such_library": Bad(
        "file_not_found", "libmissing", probe='uprobes: {"libmissing:event": on_event}', tries=TRIES_OF_RETRIED
    ),
    "no_such_function": Bad("unknown_function", "on_evnt.*did you mean on_event", probe="uprobes: {event: on_evnt}"),
    "too_much_stack": Bad(
        "stack_size",
        "[Ss]tack",
        code="struct big_t { char bytes[600]; };\nBPF_HASH(counts, u32);\nBPF_HASH(by_bytes, struct big_t);\n"
        "int on_event(void *ctx) { struct big_t big = {}; by_bytes.increment(big); return 0; }",
    ),
    "no_such_table": Bad("unknown_table", "cuonts.*did you mean counts", table="cuonts"),
    "wrong_key_size": Bad("key_size", "8 bytes.*has 4", key_bytes=8),
}


def config(binary_name: str) -> str:
    """Return a config with the good program in the middle of the bad ones."""
    programs = [program(name, bad, binary_name) for name, bad in BAD.items()]
    programs.insert(len(programs) // 2, program("good", Bad("", ""), binary_name))
    return "programs:\n" + "".join(programs)


def program(name: str, bad: Bad, binary_name: str) -> str:
    code = "".join(f"      {line}\n" for line in bad.code.splitlines())
    return f"""
  - name: {name}
    attachment: {{binary_name: {binary_name}}}
    {bad.probe}
    metrics:
      counters:
        - name: {name}_total
          table: {bad.table}
          labels: [{{name: code, size: {bad.key_bytes}, decoders: [{{name: uint}}]}}]
    code: |2
{code}"""


@dataclass(frozen=True, slots=True)
class Tried:
    """An exporter that has had time to try every program on two processes, more than once if it would."""

    running: Exporter
    targets: tuple[Target, Target]
    builders: frozenset[int]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    binary = compile_c(SOURCE, tmp_path_factory.mktemp("bad") / "xp-bad")
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(exporter(config("xp-bad")))
        builders: set[int] = set()
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.02):
                builders.update(running.children("exporter-build"))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            first, second = stack.enter_context(run_target(binary)), stack.enter_context(run_target(binary))
            running.wait_attached("good", first.pid, second.pid)
            until(lambda: all(failures(running, name) for name in BAD), "each program has failed; log:\n" + running.log)
            ended.wait(WATCHED_SECONDS)
        finally:
            ended.set()
            thread.join()
        yield Tried(running, (first, second), frozenset(builders))


def test_the_good_program_counts(tried: Tried) -> None:
    for number, target in enumerate(tried.targets, start=3):
        target.tell(f"event {number} /path 10.0.0.1 1 {number}")

    samples = fresh(tried.running)

    for number, target in enumerate(tried.targets, start=3):
        assert samples[series("good_total", code=number, pid=target.pid)] == number


@pytest.mark.parametrize("name", BAD)
def test_each_bad_program_is_counted_with_its_reason_and_no_other(tried: Tried, name: str) -> None:
    assert {dict(labels)["reason"] for labels in tried.running.values("attach_failures_total", name=name)} == {
        BAD[name].reason
    }


@pytest.mark.parametrize("name", BAD)
def test_each_bad_program_is_in_the_log_once_with_the_tools_own_words(tried: Tried, name: str) -> None:
    lines = [
        line for line in tried.running.log.splitlines() if f" program={name} " in line and "level=info" not in line
    ]

    assert len(lines) == 1, lines
    assert f"reason={BAD[name].reason}" in lines[0]
    assert re.search(BAD[name].words, lines[0]), lines[0]


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_help_is_not_tried_again_and_the_rest_ever_later(tried: Tried, name: str) -> None:
    assert failures(tried.running, name) <= BAD[name].tries * len(tried.targets)


def test_builders_are_as_few_as_there_are_tries(tried: Tried) -> None:
    # One for a program and its two processes; whichever of the two tries again may need one of its own.
    retried = sum(bad.tries * len(tried.targets) for bad in BAD.values() if bad.tries > 1)

    assert 0 < len(tried.builders) <= 1 + sum(bad.tries == 1 for bad in BAD.values()) + retried


def test_no_series_is_shown_of_a_bad_program(tried: Tried) -> None:
    samples = fresh(tried.running)

    assert [key for key in samples if any(key[0].endswith(f"_{name}_total") for name in BAD)] == []
    assert {dict(labels)["name"] for labels in tried.running.values("enabled_programs")} == {"good"}


def failures(running: Exporter, name: str) -> float:
    return running.total("attach_failures_total", name=name)
