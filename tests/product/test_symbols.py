"""The profile of a real allocator names the functions that addr2line names, and counts as they count themselves."""

import os
import signal
from collections import Counter
from collections.abc import Mapping

import pytest

from tests.product.allocating import IN_C, IN_CPP, Allocating, build, run_allocating
from tests.product.exporter import PREFIX, Samples, exporter, series, until
from tests.product.faults import fresh, wait_for_worker
from tests.worker.symbols.conftest import Linked

pytestmark = pytest.mark.bpf

NAME = f"sym{os.getpid()}"
# Each number is there twice: by the name of its place, and by the place's address, for addr2line.
PROFILE = f"""
programs:
  - name: profile
    attachment: {{binary_name: {NAME}}}
    metrics:
      counters:
        - {{name: mallocs_total, table: calls, labels: [{{name: place, size: 8, decoders: [{{name: usym}}]}}]}}
        - {{name: raw_mallocs_total, table: calls, labels: [{{name: address, size: 8, decoders: [{{name: uint}}]}}]}}
    uprobes: {{"libc.so.6:malloc": on_malloc}}
    code: |
      #include <uapi/linux/ptrace.h>
      BPF_HASH(calls, u64, u64, 4096);
      int on_malloc(struct pt_regs *ctx) {{
          u64 caller = 0;
          bpf_probe_read_user(&caller, sizeof caller, (void *)PT_REGS_SP(ctx));
          calls.increment(caller);
          return 0;
      }}
"""
STACKS = f"""
programs:
  - name: ways
    attachment: {{binary_name: {NAME}}}
    metrics:
      counters:
        - name: ways_total
          table: ways
          labels: [{{name: stack, size: 4, decoders: [{{name: ustack, stack_table: stacks}}]}}]
    usdt: {{"app:step": on_step}}
    code: |
      #include <uapi/linux/ptrace.h>
      BPF_STACK_TRACE(stacks, 1024);
      BPF_HASH(ways, int, u64, 1024);
      int on_step(struct pt_regs *ctx) {{
          int stack_id = stacks.get_stackid(ctx, BPF_F_USER_STACK);
          ways.increment(stack_id);
          return 0;
      }}
"""


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Linked:
    return build(IN_C, tmp_path_factory.mktemp("c") / NAME)


@pytest.fixture(scope="module", params=["-pie", "-no-pie"])
def in_cpp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Linked:
    options = ["-fPIE"] if request.param == "-pie" else ["-fno-pie"]
    return build(IN_CPP, tmp_path_factory.mktemp("cpp") / NAME, *options, request.param)


def by_label(samples: Samples, metric: str, label: str) -> dict[str, int]:
    """Return a metric's values by one label's text."""
    return {dict(labels)[label]: int(value) for (name, labels), value in samples.items() if name == PREFIX + metric}


def mallocs_of(account: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in account.items() if ";" not in name}


def assert_profile(samples: Samples, target: Allocating, account: Mapping[str, int]) -> None:
    """Hold the exported names and numbers against the program's own numbers and addr2line's names."""
    exported: Counter[str] = Counter()
    for place, number in by_label(samples, "mallocs_total", "place").items():
        exported[place.rpartition("+")[0]] += number
    named: Counter[str] = Counter()
    for address, number in by_label(samples, "raw_mallocs_total", "address").items():
        named[target.function_at(int(address))] += number

    assert exported == named == Counter(mallocs_of(account))
    assert len(exported) == 11


def test_functions_in_c_have_the_names_of_addr2line_and_their_own_numbers(in_c: Linked) -> None:
    with run_allocating(in_c) as target, exporter(PROFILE) as running:
        running.wait_attached("profile", target.pid)
        for times in (1, 40, 7):
            account = target.go(times)
            assert_profile(fresh(running), target, account)


def test_functions_in_cpp_are_demangled_as_by_addr2line_and_have_their_own_numbers(in_cpp: Linked) -> None:
    with run_allocating(in_cpp) as target, exporter(PROFILE) as running:
        running.wait_attached("profile", target.pid)
        for times in (1, 40, 7):
            account = target.go(times)
            assert_profile(fresh(running), target, account)


def test_what_a_process_did_last_is_named_though_nobody_asked_while_it_lived(in_c: Linked) -> None:
    with run_allocating(in_c) as target, exporter(PROFILE) as running:
        running.wait_attached("profile", target.pid)
        account = target.go_and_exit(13)
        until(lambda: running.value("targets", name="profile", state="exited") == 1, "exited")

        assert_profile(fresh(running), target, account)


def test_stacks_from_a_usdt_probe_are_the_ways_that_the_program_went(in_c: Linked) -> None:
    with run_allocating(in_c) as target, exporter(STACKS) as running:
        running.wait_attached("ways", target.pid)
        assert ways(target.go(2)) == ways(stacks(fresh(running))) == {"go;left;inner;step": 8, "go;right;step": 12}

        worker = wait_for_worker(running, target.pid)
        os.kill(worker, signal.SIGKILL)
        wait_for_worker(running, target.pid, after=worker)
        account = target.go_and_exit(5)
        until(lambda: running.value("targets", name="ways", state="exited") == 1, "exited")
        samples = fresh(running)
        assert ways(stacks(samples)) == ways(account)
        assert all(";main;serve;go;" in f";{stack}" for stack in stacks(samples))


def test_what_nobody_can_name_any_more_is_an_error_and_what_was_named_stays(in_c: Linked) -> None:
    with run_allocating(in_c) as target, exporter(STACKS) as running:
        running.wait_attached("ways", target.pid)
        target.go(2)
        before = stacks(fresh(running))
        worker = wait_for_worker(running, target.pid)
        os.kill(running.process.pid, signal.SIGSTOP)  # so that no other worker can come
        try:
            os.kill(worker, signal.SIGKILL)
            target.go_and_exit(5)
        finally:
            os.kill(running.process.pid, signal.SIGCONT)
        until(lambda: running.value("targets", name="ways", state="exited") == 1, "exited")

        samples = fresh(running)
        assert stacks(samples) == before
        assert samples[series("decode_errors_total", name="ways", metric="ways_total")] == len(before)


def stacks(samples: Samples) -> dict[str, int]:
    return by_label(samples, "ways_total", "stack")


def ways(account: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers by stack, from `go` on: what libc has before `main` is its own."""
    return {stack[stack.index("go;") :]: number for stack, number in account.items() if ";" in stack}
