"""Small C programs, compiled for a test, that do what they are told and know what they did."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Answers each line on stdin when it has done what the line says:
#   event CODE PATH ADDRESS AMOUNT TIMES    calls event() so often; ADDRESS is an IPv4 or IPv6 address
#   work TIMES                              passes the three locations of the probe app:work so often
#   semaphore                               says what the semaphore of app:work holds
#   code                                    says the bytes at the beginning of event() and at app:work, in hex
SOURCE = r"""
#define _SDT_HAS_SEMAPHORES 1
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/sdt.h>
#define OUTSIDE __attribute__((noinline, noipa))

__extension__ unsigned short app_work_semaphore __attribute__((section(".probes")));

OUTSIDE uint64_t event(uint32_t code, const char *path, const uint8_t *address, uint64_t amount) {
    __asm__ volatile("" ::"r"(code), "r"(path), "r"(address) : "memory");
    return 2 * amount;
}

OUTSIDE void work_here(int x) { DTRACE_PROBE2(app, work, 1, x); }
OUTSIDE void work_there(long x, int y) { DTRACE_PROBE2(app, work, 2, y); __asm__ volatile("" ::"r"(x)); }
OUTSIDE void work_elsewhere(int *x) { DTRACE_PROBE2(app, work, 3, *x); }

static void print_bytes(const void *begin) {
    for (int i = 0; i < 32; i++) printf("%02x", ((const volatile unsigned char *)begin)[i]);
}

int main(void) {
    char line[256], path[64], text[64];
    unsigned code;
    unsigned long amount, times;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "event %u %63s %63s %lu %lu", &code, path, text, &amount, &times) == 5) {
            uint8_t address[16] = {0};
            if (inet_pton(AF_INET, text, address) != 1) inet_pton(AF_INET6, text, address);
            for (unsigned long i = 0; i < times; i++) event(code, path, address, amount);
            printf("done");
        } else if (sscanf(line, "work %lu", &times) == 1) {
            for (unsigned long i = 0; i < times; i++) {
                int x = 30;
                work_here(10);
                work_there(0, 20);
                work_elsewhere(&x);
            }
            printf("done");
        } else if (!strcmp(line, "semaphore\n")) {
            printf("%u", *(volatile unsigned short *)&app_work_semaphore);
        } else if (!strcmp(line, "code\n")) {
            print_bytes(event);
            print_bytes(work_here);
        }
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
"""


@dataclass(slots=True)
class Target:
    """A running program that does what it is told."""

    process: "subprocess.Popen[str]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, line: str) -> str:
        """Have it do something; return its answer, which comes when it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer.endswith("\n"), f"{line}: it died"
        return answer.removesuffix("\n")

    def semaphore(self) -> int:
        """Return what the semaphore of app:work holds."""
        return int(self.tell("semaphore"))


def compile_c(source: str, output: Path, *options: str) -> Path:
    """Compile C with gcc; return the output."""
    command = ["gcc", "-O2", "-o", str(output), "-x", "c", "-", *options]
    subprocess.run(command, input=source, text=True, check=True, timeout=120)
    return output


@contextlib.contextmanager
def run_target(*command: str | Path) -> Iterator[Target]:
    """Run a program made from SOURCE, or one that talks like it."""
    process = subprocess.Popen(
        [*command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="surrogateescape"
    )
    try:
        yield Target(process)
    finally:
        process.kill()
        process.communicate()
