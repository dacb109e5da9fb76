"""Many small targets: C programs that hit a USDT probe some times a second, and know how often they did."""

import contextlib
import mmap
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.product.compiled import compile_c
from tests.product.exporter import until

PERIOD_SECONDS = 1.0
HITS = 10  # a period, each with another code
_MOST_MEMBERS = 1 << 17
_WORD_BYTES = 8

# `crowd FILE WORD` counts its hits in a word of the file, whose first word tells all to rest. It begins two periods
# after the probe's semaphore was raised: between that and the breakpoint, hits would not be seen.
_SOURCE = r"""
#define _SDT_HAS_SEMAPHORES 1
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sdt.h>
#include <time.h>

__extension__ unsigned short crowd_hit_semaphore __attribute__((section(".probes")));

static volatile sig_atomic_t is_over;
static void end(int number) { is_over = number; }

int main(int argc, char **argv) {
    (void)argc;
    struct sigaction action = {.sa_handler = end};
    struct timespec period = {PERIOD_MS / 1000, PERIOD_MS % 1000 * 1000000L};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigaction(SIGTERM, &action, NULL);
    volatile uint64_t *words = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    volatile uint64_t *hits = words + atol(argv[2]);
    if (words == MAP_FAILED) return 1;
    for (int seen = 0; !is_over; nanosleep(&period, NULL)) {
        if (*(volatile unsigned short *)&crowd_hit_semaphore && seen < 3) seen++;
        if (seen < 3 || *words) continue;
        for (int code = 0; code < HITS; code++) {
            DTRACE_PROBE1(crowd, hit, code);
            ++*hits;
        }
    }
    return 0;
}
"""

# `each` has series of its own for every target; those of `sum` are all targets' together, and outlive them.
_CONFIG = """
programs:
  - name: each
    metrics: {{counters: [{{name: each_hits_total, help: Hits, table: hits, labels: &code [
      {{name: code, size: 4, decoders: [{{name: uint}}]}}]}}]}}
    usdt: &probes {{"crowd:hit": on_hit}}
    attachment: {{binary_name: {each}}}
    code: &code_text |
      #include <uapi/linux/ptrace.h>
      BPF_HASH(hits, u32, u64, 64);
      int on_hit(struct pt_regs *ctx) {{
          u32 code = 0;
          bpf_usdt_readarg(1, ctx, &code);
          hits.increment(code);
          return 0;
      }}
  - name: sum
    target_labels: {{}}
    metrics: {{counters: [{{name: sum_hits_total, help: Hits, table: hits, labels: *code}}]}}
    usdt: *probes
    attachment: {{binary_name: {sum}}}
    code: *code_text
"""


@dataclass(eq=False, slots=True)
class Member:
    """One target: of which program it is, and which word has its hits."""

    program: str
    word: int
    process: "subprocess.Popen[bytes]"


class Crowd:
    """Members of both programs; `ended` are the hits of those of each that have ended."""

    def __init__(self, folder: Path) -> None:
        number = os.getpid() % 10**6
        names = {program: f"{program}-{number}" for program in ("each", "sum")}
        options = (f"-DPERIOD_MS={PERIOD_SECONDS * 1000:.0f}", f"-DHITS={HITS}")
        source = _SOURCE.replace("FILE_BYTES", str(_MOST_MEMBERS * _WORD_BYTES))
        self._paths = {program: compile_c(source, folder / name, *options) for program, name in names.items()}
        self.config = _CONFIG.format(**names)
        self.members: list[Member] = []
        self.ended = dict.fromkeys(names, 0)
        self._file = folder / "words"
        with self._file.open("w+b") as file:
            file.truncate(_MOST_MEMBERS * _WORD_BYTES)
            self._mapped = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._mapped).cast("Q")
        self._next_word = 1

    def begin(self, program: str) -> None:
        """Start one more."""
        process = subprocess.Popen([self._paths[program], self._file, str(self._next_word)])
        self.members.append(Member(program, self._next_word, process))
        self._next_word += 1

    def replace_one(self) -> None:
        """Have one end, whichever, and another of the same program begin."""
        place = random.randrange(len(self.members))  # noqa: S311 - no secret
        member = self.members.pop(place)
        member.process.send_signal(signal.SIGTERM)
        assert member.process.wait() in (0, -signal.SIGTERM)  # the latter before it has hit anything
        self.ended[member.program] += self._words[member.word]
        self.begin(member.program)

    def pids(self, program: str | None = None) -> set[int]:
        """Return who is there, of one program or of both."""
        return {member.process.pid for member in self.members if program in (None, member.program)}

    def hits(self) -> dict[int, int]:
        """Return how often each that is there has hit the probe."""
        return {member.process.pid: self._words[member.word] for member in self.members}

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Have nobody hit anything; whoever was about to has done so."""
        self._words[0] = 1
        try:
            until(self._is_still, "the targets rest", pause=0.0)
            yield
        finally:
            self._words[0] = 0

    def close(self) -> None:
        """End everybody."""
        for member in self.members:
            member.process.kill()
        for member in self.members:
            member.process.wait()
        self._words.release()
        self._mapped.close()

    def _is_still(self) -> bool:
        before = self.hits()
        time.sleep(2 * PERIOD_SECONDS)
        return before == self.hits()


@contextlib.contextmanager
def crowd(number: int) -> Iterator[Crowd]:
    """Run so many, half of them of each program."""
    with (
        tempfile.TemporaryDirectory(prefix="exporter-bench-") as folder,
        contextlib.closing(Crowd(Path(folder))) as all_,
    ):
        for place in range(number):
            all_.begin(("each", "sum")[place % 2])
        yield all_
