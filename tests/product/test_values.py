"""Values are read as what they are: of every width, signed or not, scaled, and of each CPU."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product.compiled import Target, compile_c, run_target
from tests.product.exporter import Exporter, exporter, series
from tests.product.faults import fresh, scraping, wait_for_worker
from tests.product.queues import ALL_SECONDS, BY_QUEUE, JOBS, queues_config, run_queues

pytestmark = pytest.mark.bpf

NAME = f"values{os.getpid()}"
CPUS = sorted(os.sched_getaffinity(0))
# Answers each line on stdin:
#   numbers CODE NUMBER    with the number as u8 s8 u16 s16 u32 s32 u64 s64, of which it shows the probe a struct
#   hit CODE CPU TIMES     with how often it has hit that code on that CPU
SOURCE = r"""
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#define OUTSIDE __attribute__((noinline, noipa))

struct numbers {
    uint8_t u8; int8_t s8; uint16_t u16; int16_t s16;
    uint32_t u32; int32_t s32; uint64_t u64; int64_t s64;
};
static unsigned long hits[8][1024];

OUTSIDE void look(uint32_t code, const struct numbers *numbers) { __asm__ volatile("" ::"r"(code), "r"(numbers)); }
OUTSIDE void hit(uint32_t code) { hits[code][sched_getcpu()]++; }

int main(void) {
    char line[128];
    unsigned code, cpu;
    unsigned long number, times;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "numbers %u %lu", &code, &number) == 2) {
            struct numbers n = {number, number, number, number, number, number, number, number};
            look(code, &n);
            printf("%u %d %u %d %u %d %lu %ld", n.u8, n.s8, n.u16, n.s16, n.u32, n.s32, n.u64, n.s64);
        } else if (sscanf(line, "hit %u %u %lu", &code, &cpu, &times) == 3) {
            cpu_set_t only;
            CPU_ZERO(&only);
            CPU_SET(cpu, &only);
            if (sched_setaffinity(0, sizeof only, &only)) abort();
            for (unsigned long i = 0; i < times; i++) hit(code);
            printf("%lu", hits[code][cpu]);
        }
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
"""
OFFSETS = {"u8": 0, "s8": 1, "u16": 2, "s16": 4, "u32": 8, "s32": 12, "u64": 16, "s64": 24}  # as the ABI lays it out
BY_CODE = "{name: code, size: 4, decoders: [{name: uint}]}"


def typed(kind: str) -> str:
    """Return a list of metrics, one for each type of value, all from the same struct."""
    each = "{{name: {0}_{1}, table: numbers, value_type: {0}, value_offset: {2}, labels: [{3}]}}"
    return "[" + ", ".join(each.format(name, kind, offset, BY_CODE) for name, offset in OFFSETS.items()) + "]"


NUMBERS = f"""
programs:
  - name: values
    attachment: {{binary_name: {NAME}}}
    metrics:
      gauges: {typed("now")}
      counters: {typed("total")}
    uprobes: {{look: on_look}}
    code: |
      #include <uapi/linux/ptrace.h>
      struct numbers_t {{ u8 a; s8 b; u16 c; s16 d; u32 e; s32 f; u64 g; s64 h; }};
      BPF_HASH(numbers, u32, struct numbers_t, 64);
      int on_look(struct pt_regs *ctx) {{
          u32 code = PT_REGS_PARM1(ctx);
          struct numbers_t numbers_now = {{}};
          bpf_probe_read_user(&numbers_now, sizeof numbers_now, (void *)PT_REGS_PARM2(ctx));
          numbers.update(&code, &numbers_now);
          return 0;
      }}
"""
HITS = f"""
programs:
  - name: hits
    attachment: {{binary_name: {NAME}}}
    metrics:
      counters:
        - {{name: hits_total, table: hits, labels: [{BY_CODE}]}}
        - {{name: cpu_hits_total, table: hits, labels: [{BY_CODE}, {{name: cpu}}]}}
        - {{name: all_hits_total, table: all_hits}}
        - {{name: cpu_all_hits_total, table: all_hits, labels: [{{name: cpu}}]}}
      gauges:
        - {{name: cpu_hits_now, table: hits, labels: [{BY_CODE}, {{name: cpu}}]}}
    uprobes: {{hit: on_hit}}
    code: |
      #include <uapi/linux/ptrace.h>
      BPF_PERCPU_HASH(hits, u32, u64, 64);
      BPF_PERCPU_ARRAY(all_hits, u64, 1);
      int on_hit(struct pt_regs *ctx) {{
          u32 code = PT_REGS_PARM1(ctx);
          u64 none = 0, *count = hits.lookup_or_try_init(&code, &none);  // increment() makes no keys in such a map
          if (count)
              *count += 1;
          all_hits.increment(0);
          return 0;
      }}
"""


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(SOURCE, tmp_path_factory.mktemp("values") / NAME)


@pytest.fixture
def target(binary: Path) -> Iterator[Target]:
    with run_target(binary) as running:
        yield running


def test_values_of_every_type_are_the_numbers_that_the_program_has_of_that_type(target: Target) -> None:
    numbers = (0, 1, 127, 128, 255, 256, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63)
    with exporter(NUMBERS) as running:
        running.wait_attached("values", target.pid)
        for code, number in enumerate((*numbers, 2**64 - 1)):
            own = dict(zip(OFFSETS, map(int, target.tell(f"numbers {code} {number}").split()), strict=True))

            samples = fresh(running)
            for name, value in own.items():
                labels = {"code": code, "pid": target.pid}
                assert samples[series(f"{name}_now", **labels)] == float(value), (name, number)
                assert samples[series(f"{name}_total", **labels)] == float(max(value, 0)), (name, number)


def test_a_per_cpu_map_is_summed_or_told_apart_by_cpu_and_each_number_is_the_programs_own(target: Target) -> None:
    own: dict[tuple[int, int], int] = {}
    with exporter(HITS) as running:
        running.wait_attached("hits", target.pid)
        for code in (1, 2):
            for cpu in CPUS:
                own[code, cpu] = int(target.tell(f"hit {code} {cpu} {100 * code + cpu}"))
        assert_counted(running, target, own)

        worker = wait_for_worker(running, target.pid)
        os.kill(worker, signal.SIGKILL)
        for cpu in CPUS:
            own[1, cpu] = int(target.tell(f"hit 1 {cpu} 7"))
        wait_for_worker(running, target.pid, after=worker)
        assert_counted(running, target, own)


def assert_counted(running: Exporter, target: Target, own: dict[tuple[int, int], int]) -> None:
    samples = fresh(running)
    pid = target.pid
    for code in {code for code, _ in own}:
        expected = sum(hits for (hit, _), hits in own.items() if hit == code)
        assert samples[series("hits_total", code=code, pid=pid)] == expected
    for cpu in CPUS:
        expected = sum(hits for (_, hit), hits in own.items() if hit == cpu)
        assert samples[series("cpu_all_hits_total", cpu=cpu, pid=pid)] == expected
    assert samples[series("all_hits_total", pid=pid)] == sum(own.values())
    for metric in ("cpu_hits_total", "cpu_hits_now"):
        name, _ = series(metric)
        found = {key: value for key, value in samples.items() if key[0] == name and value}
        assert found == {series(metric, code=code, cpu=cpu, pid=pid): hits for (code, cpu), hits in own.items()}


def test_a_scaled_counter_is_exactly_the_scaled_sum_whoever_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / f"scaled{os.getpid()}"
    folder.mkdir()
    metrics = f"""{{counters: [
      {{name: jobs_total, {JOBS}, {BY_QUEUE}}},
      {{name: work_seconds_total, {ALL_SECONDS}, {BY_QUEUE}}},
      {{name: bytes_total, {JOBS}, value_multiplier: 4096, {BY_QUEUE}}}]}}"""
    with run_queues(folder) as target, exporter(queues_config(folder.name, metrics)) as running:
        running.wait_attached("queues", target.pid)
        worker = wait_for_worker(running, target.pid)
        with scraping(running, "work_seconds_total"):
            for turn in range(4):
                target.work(1, nanoseconds=1_000_003, times=1_009)
                target.work(2, nanoseconds=999_999_999_999_989, times=3)
                target.work(3, nanoseconds=7, times=1)
                if turn % 2:
                    fresh(running)
                    target.remove(1)  # what it had stays counted, whoever has read it
                    fresh(running)
                os.kill(worker, signal.SIGKILL)
                account = target.work(1, nanoseconds=11, times=13)
                worker = wait_for_worker(running, target.pid, after=worker)

        samples = fresh(running)
        for number, queue in account.items():
            labels = {"queue": number, "pid": target.pid}
            assert samples[series("jobs_total", **labels)] == queue.jobs
            assert samples[series("work_seconds_total", **labels)] == queue.all_nanoseconds * 1e-9
            assert samples[series("bytes_total", **labels)] == queue.jobs * 4096
