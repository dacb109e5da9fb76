"""What the tests of symbols share: programs that say from where they were called, and what binutils say of them."""

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.symbols.symbolizer import Symbolizer

# Both print lines `FILE ADDRESS`: the addresses that their functions call from, and those of some functions; first each
# file's `anchor`. Then the program waits.
SHARED = r"""
#pragma once
#include <cstdio>
#include <string>
#include <vector>
#define APART __attribute__((noinline, noclone))
void report(const char *file, const void *address);
#define REPORT_CALL(file) \
    static APART void report_call(void) { report(file, __builtin_return_address(0)); __asm__ volatile(""); }
#define CALL() do { report_call(); __asm__ volatile(""); } while (0)
"""
APP = r"""
#include "shared.h"
extern "C" __attribute__((visibility("default"))) APART void anchor(void) { __asm__ volatile(""); }
void use_library(void);
void report(const char *file, const void *address) { std::printf("%s %p\n", file, address); }
REPORT_CALL("app")
namespace shop {
template <class Item> struct Basket {
    APART void add(const Item &) { CALL(); }
    APART static int count(const std::vector<Item> &) { CALL(); return 1; }
    APART bool operator<(const Basket &) const { CALL(); return true; }
};
namespace { APART void hidden(int, char) { CALL(); } }
APART void overloaded(int) { CALL(); }
APART void overloaded(const char *) { CALL(); }
}
template <class... Parts> APART void pack(Parts &&...) { CALL(); }
extern "C" APART void plain_c(void) { CALL(); }
static APART void local_function(void) { CALL(); }
int main(void) {
    report("app", (void *)anchor);
    shop::Basket<std::string> basket;
    basket.add("x");
    shop::Basket<long>::count({1});
    (void)(basket < basket);
    shop::hidden(1, 'x');
    shop::overloaded(1);
    shop::overloaded("x");
    pack(1, 2.0, std::string());
    plain_c();
    local_function();
    auto lambda = []() APART { CALL(); };
    lambda();
    report("app", (void *)plain_c);
    report("app", (void *)local_function);
    use_library();
    std::puts("end");
    std::fflush(stdout);
    return std::getchar();
}
"""
LIBRARY = r"""
#include "shared.h"
extern "C" APART void library_anchor(void) { __asm__ volatile(""); }
REPORT_CALL("libshelf.so")
static APART void inside(void) { CALL(); }
namespace shelf { APART void exported(std::string &) { CALL(); inside(); } }
void use_library(void) {
    std::string text;
    report("libshelf.so", (void *)library_anchor);
    shelf::exported(text);
    report("libshelf.so", (void *)inside);
}
"""


@dataclass(frozen=True)
class Linked:
    """An ELF file as nm and addr2line see it, not stripped whatever became of the copy that runs."""

    path: Path

    def symbols(self) -> dict[str, int]:
        """Return the addresses of the functions by their demangled names."""
        said = run("nm", "-C", "--defined-only", self.path)
        return {name: int(address, 16) for address, name in re.findall(r"^(\w+) [tTwWi] (.*)$", said, re.MULTILINE)}

    def function_at(self, address: int) -> str:
        """Return what addr2line calls the function."""
        return run("addr2line", "-f", "-C", "-e", self.path, f"{address:#x}").splitlines()[0]


@dataclass(frozen=True)
class Running:
    """The program, waiting; `reported` has the addresses by file, as it saw them itself."""

    process: "subprocess.Popen[str]"
    reported: dict[str, list[int]]
    linked: dict[str, Linked]

    @property
    def pid(self) -> int:
        return self.process.pid

    def bias(self, file: str) -> int:
        """Return how far behind its linked addresses the file is in memory."""
        anchor = "anchor" if file == "app" else "library_anchor"
        return self.reported[file][0] - self.linked[file].symbols()[anchor]

    def end(self) -> None:
        self.process.communicate("x", timeout=20)


Compile = Callable[..., dict[str, Linked]]
Start = Callable[[dict[str, Linked]], Running]


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="session")
def compile_program(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Return what compiles program and library to PATH.whole, and to PATH as it shall run."""
    made: dict[tuple[Sequence[str], bool], dict[str, Linked]] = {}

    def compile_once(*options: str, strip: bool = False) -> dict[str, Linked]:
        if (options, strip) not in made:
            made[options, strip] = compile_in(tmp_path_factory.mktemp("program"), options, strip=strip)
        return made[options, strip]

    return compile_once


def compile_in(folder: Path, options: Sequence[str], *, strip: bool) -> dict[str, Linked]:
    for name, text in {"shared.h": SHARED, "app.cpp": APP, "shelf.cpp": LIBRARY}.items():
        (folder / name).write_text(text)
    common = ["g++", "-std=c++17", "-O1", "-fno-omit-frame-pointer"]
    library, app = folder / "libshelf.so", folder / "app"
    run(*common, "-shared", "-fPIC", "-o", library, str(folder / "shelf.cpp"))
    link = ["-rdynamic", f"-L{folder}", "-lshelf", "-Wl,-rpath,$ORIGIN"]
    run(*common, *options, "-o", app, str(folder / "app.cpp"), *link)
    for path in (library, app):
        whole = path.with_name(f"{path.name}.whole")
        whole.write_bytes(path.read_bytes())
        if strip:
            run("strip", path)
    return {path.name: Linked(path.with_name(f"{path.name}.whole")) for path in (app, library)}


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start_program(linked: dict[str, Linked]) -> Running:
        executable = linked["app"].path.with_suffix("")
        process = subprocess.Popen([executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout
        reported: dict[str, list[int]] = {}
        for line in iter(process.stdout.readline, "end\n"):
            file, address = line.split()
            reported.setdefault(file, []).append(int(address, 16))
        return Running(process, reported, linked)

    yield start_program
    for process in started:
        process.kill()
        process.communicate(timeout=20)


@pytest.fixture
def symbolize() -> Iterator[Callable[[int], Symbolizer]]:
    made: list[Symbolizer] = []

    def symbolize_process(pid: int) -> Symbolizer:
        made.append(Symbolizer(pid))
        return made[-1]

    yield symbolize_process
    for symbolizer in made:
        symbolizer.close()
