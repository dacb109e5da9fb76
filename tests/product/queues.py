"""A program with queues: it works on them and removes them when told to, and keeps its own account of each."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.product.compiled import Target, compile_c, run_target

# Answers each line on stdin with its account, JOBS DEPTH LAST_NANOSECONDS ALL_NANOSECONDS IS_THERE for each queue:
#   work QUEUE DEPTH NANOSECONDS TIMES
#   remove QUEUE
_SOURCE = r"""
#include <stdint.h>
#include <stdio.h>
#define OUTSIDE __attribute__((noinline, noipa))

static struct { uint64_t jobs, last, all; int32_t depth; int is_there; } queues[64];

OUTSIDE void worked(uint32_t queue, int32_t depth, uint64_t nanoseconds) {
    queues[queue].jobs++;
    queues[queue].depth = depth;
    queues[queue].last = nanoseconds;
    queues[queue].all += nanoseconds;
    queues[queue].is_there = 1;
}
OUTSIDE void removed(uint32_t queue) { queues[queue].is_there = 0; }

int main(void) {
    char line[128];
    unsigned queue;
    int depth;
    unsigned long nanoseconds, times;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "work %u %d %lu %lu", &queue, &depth, &nanoseconds, &times) == 4)
            for (unsigned long i = 0; i < times; i++) worked(queue, depth, nanoseconds);
        else if (sscanf(line, "remove %u", &queue) == 1)
            removed(queue);
        for (queue = 0; queue < 64; queue++)
            printf("%lu %d %lu %lu %d ", queues[queue].jobs, queues[queue].depth, queues[queue].last,
                   queues[queue].all, queues[queue].is_there);
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
"""


@dataclass(frozen=True, slots=True)
class Queue:
    """What the program says of a queue; jobs and all nanoseconds are those of all time, whether it was removed or not.

    The last job's nanoseconds and the depth are of the last job.
    """

    jobs: int
    depth: int
    last_nanoseconds: int
    all_nanoseconds: int
    is_there: bool


Account = Mapping[int, Queue]


@dataclass(slots=True)
class Queues:
    """A running one."""

    target: Target

    @property
    def pid(self) -> int:
        return self.target.pid

    def work(self, queue: int, *, depth: int = 0, nanoseconds: int = 1, times: int = 1) -> Account:
        """Have it work on a queue, of 64; return the account of all on which it ever has."""
        return self._account(f"work {queue} {depth} {nanoseconds} {times}")

    def remove(self, queue: int) -> Account:
        """Have it remove a queue."""
        return self._account(f"remove {queue}")

    def exit(self) -> None:
        """Have it exit; return when it is gone and reaped."""
        self.target.process.communicate(timeout=60)

    def _account(self, line: str) -> Account:
        words = [int(word) for word in self.target.tell(line).split()]
        queues = (
            Queue(jobs, depth, last, all_of_them, bool(is_there))
            for jobs, depth, last, all_of_them, is_there in zip(*[iter(words)] * 5, strict=True)
        )
        return {number: queue for number, queue in enumerate(queues) if queue.jobs}


@contextlib.contextmanager
def run_queues(folder: Path) -> Iterator[Queues]:
    """Run a program that is compiled in `folder`; its comm is the folder's name."""
    with run_target(compiled(folder)) as target:
        target.tell("")
        yield Queues(target)


@functools.cache
def compiled(folder: Path) -> Path:
    """Return the program in that folder, by the folder's name."""
    return compile_c(_SOURCE, folder / folder.name)


def queues_config(binary_name: str, metrics: str, *, target_labels: str = "", max_entries: int = 64) -> str:
    """Return a config with a map of `struct queue_t` by queue, `queues`; `metrics` is in YAML's flow style."""
    return f"""
programs:
  - name: queues
    attachment: {{binary_name: {binary_name}}}
    {f"target_labels: {target_labels}" if target_labels else ""}
    metrics: {metrics}
    uprobes: {{worked: on_worked, removed: on_removed}}
    code: |
      #include <uapi/linux/ptrace.h>
      struct queue_t {{ u64 jobs; s32 depth; u32 padding; u64 last_nanoseconds; u64 all_nanoseconds; }};
      BPF_HASH(queues, u32, struct queue_t, {max_entries});
      int on_worked(struct pt_regs *ctx) {{
          u32 key = PT_REGS_PARM1(ctx);
          struct queue_t none = {{}}, *queue = queues.lookup_or_try_init(&key, &none);
          if (!queue)
              return 0;
          queue->jobs++;
          queue->depth = PT_REGS_PARM2(ctx);
          queue->last_nanoseconds = PT_REGS_PARM3(ctx);
          queue->all_nanoseconds += PT_REGS_PARM3(ctx);
          return 0;
      }}
      int on_removed(struct pt_regs *ctx) {{
          u32 key = PT_REGS_PARM1(ctx);
          queues.delete(&key);
          return 0;
      }}
"""


JOBS = "table: queues, value_type: u64, value_offset: 0"
DEPTH = "table: queues, value_type: s32, value_offset: 8"
LAST_SECONDS = "table: queues, value_type: u64, value_offset: 16, value_multiplier: 1.0e-9"
ALL_SECONDS = "table: queues, value_type: u64, value_offset: 24, value_multiplier: 1.0e-9"
BY_QUEUE = "labels: [{name: queue, size: 4, decoders: [{name: uint}]}]"
