"""Programs whose functions call malloc, C and C++: each keeps its own account of how often, by function."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.product.compiled import Target, run_target
from tests.worker.symbols.conftest import Linked

_OPTIONS = ("-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-fno-builtin")

# Answers the line "go TIMES" with `NAME=COUNT` for each function, and for each way to the probe app:step; before the
# first one it says where `anchor` is. It allocates nothing by itself.
_SHARED = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sdt.h>
#define APART __attribute__((noinline, noclone))
#define AFTERWARDS __asm__ volatile("")
static void *volatile kept;
static struct { const char *name; long count; } account[64];
static void count(const char *name) {
    int i = 0;
    while (account[i].name && strcmp(account[i].name, name)) i++;
    account[i].name = name;
    account[i].count++;
}
#define ALLOCATE(name, times) \
    for (long i = 0; i < (times); i++) { kept = malloc(i + 1); free(kept); count(name); }
#define SAY(name, before) APART void name(long times) { ALLOCATE(#name, times) before; AFTERWARDS; }
static char input[4096], output[4096];
static APART void serve(void (*go)(long), void *anchor) {
    char line[64];
    long times;
    setvbuf(stdin, input, _IOFBF, sizeof input);
    setvbuf(stdout, output, _IOFBF, sizeof output);
    printf("%p\n", anchor);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "go %ld", &times) == 1) go(times);
        for (int i = 0; account[i].name; i++) printf("%s=%ld|", account[i].name, account[i].count);
        printf("\n");
        fflush(stdout);
    }
}
"""
IN_C = (
    _SHARED
    + r"""
SAY(parse_header, ) static SAY(parse_body, ) SAY(open_session, ) static SAY(render, ) SAY(log_line, )
SAY(hash_insert, ) static SAY(hash_grow, hash_insert(1)) SAY(copy_string, ) static SAY(read_config, ) SAY(accept_one, )
static APART void twice(long times) { ALLOCATE("twice", times) AFTERWARDS; ALLOCATE("twice", 2 * times) AFTERWARDS; }
APART void anchor(void) { AFTERWARDS; }

/* Not probed at its first instruction: before kernel 6.11 the caller would be missing from the stack. */
APART void step(const char *way) { __asm__ volatile("" ::"r"(__builtin_frame_address(0))); DTRACE_PROBE(app, step);
    count(way); }
static APART void inner(const char *way) { step(way); AFTERWARDS; }
APART void left(void) { inner("go;left;inner;step"); AFTERWARDS; }
static APART void right(void) { step("go;right;step"); AFTERWARDS; }

static APART void go(long times) {
    parse_header(times); parse_body(2 * times); open_session(3 * times); render(5 * times); log_line(7 * times);
    hash_insert(11 * times); hash_grow(13 * times); copy_string(17 * times); read_config(19 * times);
    accept_one(23 * times); twice(29 * times);
    for (long i = 0; i < 4 * times; i++) left();
    for (long i = 0; i < 6 * times; i++) right();
    AFTERWARDS;
}
int main(void) { serve(go, (void *)anchor); return 0; }
"""
)
IN_CPP = (
    _SHARED
    + r"""
#include <new>
#define INSIDE(name, times) { ALLOCATE(name, times) AFTERWARDS; }
namespace shop {
APART void basket(int) INSIDE("shop::basket(int)", 3)
APART void basket(const char *) INSIDE("shop::basket(char const*)", 5)
namespace { APART void hidden(char) INSIDE("shop::(anonymous namespace)::hidden(char)", 7) }
template <class Item> struct List { APART void grow(const Item &); };
template <> void List<int>::grow(const int &) INSIDE("shop::List<int>::grow(int const&)", 11)
template <> void List<List<long>>::grow(const List<long> &)
    INSIDE("shop::List<shop::List<long> >::grow(shop::List<long> const&)", 13)
struct Order {
    APART explicit Order(int) INSIDE("shop::Order::Order(int)", 17)
    APART Order &operator+=(int) { INSIDE("shop::Order::operator+=(int)", 19) return *this; }
    APART bool operator<(const Order &) const { INSIDE("shop::Order::operator<(shop::Order const&) const", 23)
        return true; }
    APART ~Order() INSIDE("shop::Order::~Order()", 29)
};
}
extern "C" APART void plain(void) INSIDE("plain", 31)
static APART void local(double, unsigned long) INSIDE("local(double, unsigned long)", 37)
extern "C" APART void anchor(void) { AFTERWARDS; }
static APART void go(long times) {
    for (long i = 0; i < times; i++) {
        shop::basket(1); shop::basket("x"); shop::hidden('x'); shop::List<int>().grow(1);
        shop::List<shop::List<long>>().grow(shop::List<long>());
        { shop::Order order(1), *same = &order; order += 1; (void)(order < *same); }
        plain(); local(0, 0);
    }
    AFTERWARDS;
}
int main() { serve(go, (void *)anchor); return 0; }
"""
)


def build(source: str, output: Path, *options: str) -> Linked:
    """Compile IN_C or IN_CPP with these options."""
    language, compiler = ("c", "gcc") if source is IN_C else ("c++", "g++")
    command = [compiler, *_OPTIONS, *options, "-x", language, "-", "-o", str(output)]
    subprocess.run(command, input=source, text=True, check=True, timeout=120)
    return Linked(output)


@dataclass(frozen=True, slots=True)
class Allocating:
    """A running one; `bias` is how far behind its linked addresses it is in memory."""

    target: Target
    linked: Linked
    bias: int

    @property
    def pid(self) -> int:
        return self.target.pid

    def go(self, times: int) -> Mapping[str, int]:
        """Have it call its functions; return its account by function or way."""
        return _account(self.target.tell(f"go {times}"))

    def go_and_exit(self, times: int) -> Mapping[str, int]:
        """Have it do the same and exit at once; return its account when it is gone and reaped."""
        answer, _ = self.target.process.communicate(f"go {times}\n", timeout=60)
        return _account(answer)

    def function_at(self, address: int) -> str:
        """Return what addr2line calls the function at an address in memory."""
        return self.linked.function_at(address - self.bias)


@contextlib.contextmanager
def run_allocating(linked: Linked) -> Iterator[Allocating]:
    """Run a program that `build` made."""
    with run_target(linked.path) as target:
        assert target.process.stdout is not None
        anchor = int(target.process.stdout.readline(), 16)
        yield Allocating(target, linked, anchor - linked.symbols()["anchor"])


def _account(answer: str) -> Mapping[str, int]:
    pairs = (entry.rpartition("=") for entry in answer.strip().split("|") if entry)
    return {name: int(number) for name, _, number in pairs}
