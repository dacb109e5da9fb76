"""What the page on writing programs warns of is so."""

import pytest

from tests.docs.pages import blocks
from tests.docs.test_recipes import NAME, python
from tests.product.compiled import compile_c, run_target
from tests.product.exporter import Samples, exporter, series

pytestmark = pytest.mark.bpf

_PROGRAM = """
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <sys/mman.h>
static jmp_buf away;
__attribute__((noinline)) int same(int n) { asm volatile(""); return n; }
__attribute__((noinline)) long down(long n) { asm volatile(""); return n ? down(n - 1) + 1 : 0; }
__attribute__((noinline)) void leap(void) { asm volatile(""); longjmp(away, 1); }
__attribute__((noinline)) void named(const char *name) { asm volatile("" :: "r"(name) : "memory"); }
int main(int count, char **arguments) {
    volatile int minus_one = -1;
    char line[64];
    int file = open(arguments[1], O_RDONLY);
    while (fgets(line, sizeof line, stdin)) {
        same(minus_one);
        down(3);
        if (!setjmp(away)) leap();
        const char *name = mmap(0, 4096, PROT_READ, MAP_PRIVATE, file, 0);
        named(name);
        volatile char read = *name;
        named(name);
        puts("done");
        fflush(stdout);
    }
}
"""

_CONFIG = """
programs:
  - name: pitfalls
    metrics:
      counters:
        - {name: same_total, table: returned, labels: [{name: n, size: 8, decoders: [{name: int}]}]}
        - {name: named_total, table: names, labels: [{name: name, size: 8, decoders: [{name: string}]}]}
        - {name: passed_total, table: passed, labels: [{name: what, size: 16, decoders: [{name: string}]}]}
    uprobes: {down: down_begins, leap: leap_begins, named: on_named}
    uretprobes: {same: on_same, down: down_ends, leap: leap_ends}
    attachment: {binary_name: NAME}
    code: |
      #include <uapi/linux/ptrace.h>
      struct name_t { char text[8]; };
      struct what_t { char text[16]; };
      BPF_HASH(returned, s64, u64, 16);
      BPF_HASH(names, struct name_t, u64, 16);
      BPF_HASH(passed, struct what_t, u64, 16);
      BPF_HASH(began, u32, u64, 16);

      int on_same(struct pt_regs *ctx) {
          s64 n = PT_REGS_RC(ctx);
          returned.atomic_increment(n);
          return 0;
      }

      int on_named(struct pt_regs *ctx) {
          struct name_t name = {};
          bpf_probe_read_user_str(name.text, sizeof(name.text), (void *)PT_REGS_PARM1(ctx));
          names.atomic_increment(name);
          return 0;
      }

      int down_begins(struct pt_regs *ctx) {
          u32 thread = bpf_get_current_pid_tgid();
          u64 now = bpf_ktime_get_ns();
          began.update(&thread, &now);
          return 0;
      }

      int down_ends(struct pt_regs *ctx) {
          u32 thread = bpf_get_current_pid_tgid();
          struct what_t measured = {"measured"}, missed = {"missed"};
          if (began.lookup(&thread))
              passed.atomic_increment(measured);
          else
              passed.atomic_increment(missed);
          began.delete(&thread);
          return 0;
      }

      int leap_begins(struct pt_regs *ctx) {
          struct what_t what = {"leap begins"};
          passed.atomic_increment(what);
          return 0;
      }

      int leap_ends(struct pt_regs *ctx) {
          struct what_t what = {"leap ends"};
          passed.atomic_increment(what);
          return 0;
      }
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Samples, int]:
    """What was scraped after one round of the program, and its pid."""
    folder = tmp_path_factory.mktemp("pitfalls")
    (folder / "name").write_text("tea")
    program = compile_c(_PROGRAM, folder / NAME, "-fno-optimize-sibling-calls")
    config = _CONFIG.replace("NAME", NAME)
    with run_target(program, str(folder / "name")) as target, exporter(config) as running:
        running.wait_attached("pitfalls", target.pid)
        target.tell("go")
        return running.scrape(), target.pid


def test_an_int_in_a_wider_variable_has_lost_its_sign(seen: tuple[Samples, int]) -> None:
    samples, pid = seen

    assert samples[series("same_total", n=2**32 - 1, pid=pid)] == 1


def test_what_the_program_has_not_read_yet_is_empty(seen: tuple[Samples, int]) -> None:
    samples, pid = seen

    assert [samples[series("named_total", name=name, pid=pid)] for name in ("", "tea")] == [1, 1]


def test_of_calls_within_each_other_the_innermost_is_measured(seen: tuple[Samples, int]) -> None:
    samples, pid = seen

    assert [samples[series("passed_total", what=what, pid=pid)] for what in ("measured", "missed")] == [1, 3]


def test_a_call_that_is_leapt_out_of_does_not_return(seen: tuple[Samples, int]) -> None:
    samples, pid = seen

    assert samples[series("passed_total", what="leap begins", pid=pid)] == 1
    assert series("passed_total", what="leap ends", pid=pid) not in samples


def test_a_result_in_a_variable_of_its_type_keeps_its_sign() -> None:
    [config] = [block.text for block in blocks() if block.page == "writing-programs.md" and "close_total" in block.text]
    with python() as target, exporter(config.replace("binary_name: python3", f"binary_name: {NAME}")) as running:
        running.wait_attached("closes", target.pid)
        target.tell("with __import__('contextlib').suppress(OSError): os.close(10**6)")

        assert running.value("close_total", returned=-1, pid=target.pid) == 1
