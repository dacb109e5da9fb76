"""A small C program that calls what is probed in a tight loop, and says what a call took."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.product.compiled import Target, compile_c, run_target

USDT_ARGUMENT = 7

# Answers each line `PLACE TIMES` with the nanoseconds that one call took. `child TIMES PLACE` is answered by a forked
# child, which then is the one that answers until the line `end`.
_SOURCE = r"""
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/sdt.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOP5 ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00"
#define FUNCTION(name, code) __attribute__((naked, noipa)) static void name(long n) { __asm__(code "; ret"); }
#define PUSH "push %rbp; pop %rbp"
#define SUB "sub $8, %rsp; add $8, %rsp"

FUNCTION(nop5, NOP5) FUNCTION(push, PUSH) FUNCTION(sub, SUB) FUNCTION(endbr, "endbr64")
FUNCTION(push_pair, PUSH) FUNCTION(sub_pair, SUB) FUNCTION(push_timed, PUSH)
FUNCTION(push_0, PUSH) FUNCTION(push_1, PUSH) FUNCTION(push_2, PUSH) FUNCTION(push_3, PUSH)
FUNCTION(push_4, PUSH) FUNCTION(push_5, PUSH) FUNCTION(push_6, PUSH) FUNCTION(push_7, PUSH)

__attribute__((noipa)) static void usdt(long n) { STAP_PROBE1(bench, hit, n); }

#define PLACE(name) {#name, name}
static const struct { const char *name; void (*call)(long); } places[] = {
    PLACE(nop5), PLACE(push), PLACE(sub), PLACE(endbr), PLACE(push_pair), PLACE(sub_pair), PLACE(push_timed),
    PLACE(push_0), PLACE(push_1), PLACE(push_2), PLACE(push_3), PLACE(push_4), PLACE(push_5), PLACE(push_6),
    PLACE(push_7), PLACE(usdt),
};

static double call(const char *name, long times) {
    struct timespec begin, end;
    unsigned place = 0;
    while (strcmp(name, places[place].name)) place++;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long i = 0; i < times; i++) places[place].call(USDT_ARGUMENT);
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / times;
}

int main(void) {
    char line[128], name[32];
    long times;
    while (fgets(line, sizeof line, stdin) && strcmp(line, "end\n")) {
        if (sscanf(line, "child %ld %31s", &times, name) == 2) {
            if (!fork()) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                printf("%.2f\n", call(name, times));
            } else {
                wait(NULL);
                printf("ended\n");
            }
        } else if (sscanf(line, "%31s %ld", name, &times) == 2) {
            printf("%.2f\n", call(name, times));
        } else {
            return 1;
        }
        fflush(stdout);
    }
    return 0;
}
"""


def compile_calls(folder: Path) -> Path:
    """Return the program."""
    return compile_c(_SOURCE, folder / "bench-calls", f"-DUSDT_ARGUMENT={USDT_ARGUMENT}")


@contextlib.contextmanager
def copies(binary: Path, names: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Copy the program once for each name: what probes a file costs all processes of that file that are probed."""
    with tempfile.TemporaryDirectory(prefix="exporter-bench-") as folder:
        yield {name: Path(shutil.copy(binary, Path(folder) / name.replace(" ", "-"))) for name in names}


@contextlib.contextmanager
def calls(binary: Path, *arguments: str) -> Iterator["Calls"]:
    """Run the program, which does not look at its arguments."""
    with run_target(binary, *arguments) as target:
        yield Calls(target.process)


class Calls(Target):
    """The running program."""

    def nanoseconds(self, place: str, times: int) -> float:
        """Return what a call took, on the average of so many."""
        return float(self.tell(f"{place} {times}"))

    @contextlib.contextmanager
    def child(self, place: str, times: int) -> Iterator[float]:
        """Let a forked child answer from now on; what a call took of the first ones that it made."""
        first = float(self.tell(f"child {times} {place}"))
        try:
            yield first
        finally:
            self.tell("end")
