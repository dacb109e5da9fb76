"""What the tests of raw BPF share: a compiled target that does as it is told, and programs made by hand."""

import ctypes
import os
import re
import select
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.bpf.maps import MapKind, create_map
from ebpf_userspace_exporter.worker.bpf.programs import load_program
from ebpf_userspace_exporter.worker.bpf.reading import read_map
from ebpf_userspace_exporter.worker.bpf.syscalls import Command, MapElement, bpf
from ebpf_userspace_exporter.worker.bpf.values import numbers_by_key
from ebpf_userspace_exporter.worker.image import Function, MapShape
from ebpf_userspace_exporter.worker.reasons import AttachError

DEADLINE_SECONDS = 20
COUNTS = MapShape("counts", MapKind.ARRAY, key_bytes=4, leaf_bytes=8, max_entries=4, flags=0, built_fd=7)

# Orders are a letter and a number; each is answered by one line with a number.
SOURCE = r"""
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

__extension__ unsigned short demo_hit_semaphore __attribute__((section(".probes")));

__attribute__((noinline)) int probed(int x) { __asm__ volatile(""); return x + 1; }
__attribute__((noinline)) int also_probed(int x) { __asm__ volatile(""); return x + 2; }
__attribute__((noinline)) void has_usdt(int x) { DTRACE_PROBE1(demo, hit, x); }
__asm__(".globl trap\n.type trap,@function\ntrap: int3\nret\n");

static void call(int count) {
    for (int i = 0; i < count; i++) {
        probed(i);
        also_probed(i);
        also_probed(i);
        has_usdt(i);
    }
}

static void *call_in_thread(void *count) { call((int)(intptr_t)count); return 0; }

int main(void) {
    char order;
    int number;
    signal(SIGCHLD, SIG_IGN);
    while (scanf(" %c%d", &order, &number) == 2) {
        long answer = number;
        pthread_t thread;
        switch (order) {
        case 'c': call(number); break;
        case 't':
            pthread_create(&thread, 0, call_in_thread, (void *)(intptr_t)number);
            pthread_join(thread, 0);
            break;
        case 's': answer = *(volatile unsigned short *)&demo_hit_semaphore; break;
        case 'f':
            answer = fork();
            if (answer == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;) pause();
            }
            break;
        }
        printf("%ld\n", answer);
        fflush(stdout);
    }
    return 0;
}
"""


@dataclass(frozen=True, slots=True)
class Binary:
    """The compiled target and where its probes lie in the file."""

    path: str
    offsets: dict[str, int]
    usdt: tuple[int, int]  # offset and semaphore


@dataclass(frozen=True, slots=True)
class Target:
    """A running target."""

    binary: Binary
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def call(self, count: int) -> None:
        """Run through every probe `count` times, twice through also_probed."""
        self._ask("c", count)

    def call_in_thread(self, count: int) -> None:
        self._ask("t", count)

    def semaphore(self) -> int:
        return self._ask("s", 0)

    def fork(self) -> int:
        """Return the pid of a child that sleeps and dies with the target."""
        return self._ask("f", 0)

    def memory_at(self, offset: int, byte_count: int, pid: int | None = None) -> bytes:
        """Return what the target, or its child `pid`, has in memory where it maps that offset of its executable."""
        process = f"/proc/{pid or self.pid}"
        for line in Path(process, "maps").read_text().splitlines():
            span, _, start, _, _, *path = line.split()
            low, high = (int(bound, 16) for bound in span.split("-"))
            if path == [self.binary.path] and 0 <= offset - int(start, 16) < high - low:
                with Path(process, "mem").open("rb", buffering=0) as memory:
                    memory.seek(low + offset - int(start, 16))
                    found = memory.read(byte_count)
        return found

    def _ask(self, order: str, number: int) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{order}{number}\n".encode())
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], DEADLINE_SECONDS)[0], "the target does not answer"
        return int(self.process.stdout.readline())


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Binary:
    path = str(tmp_path_factory.mktemp("target") / "target")
    subprocess.run(["gcc", "-O1", "-pthread", "-x", "c", "-", "-o", path], input=SOURCE.encode(), check=True)
    segments = [
        tuple(int(word, 16) for word in (words[1], words[2], words[4]))
        for words in map(str.split, _output("readelf", "-lW", path).splitlines())
        if words and words[0] == "LOAD"
    ]

    def file_offset(address: int) -> int:
        return next(address - low + offset for offset, low, size in segments if low <= address < low + size)

    symbols = {words[2]: int(words[0], 16) for words in map(str.split, _output("nm", path).splitlines()) if words[2:]}
    note = re.search(r"Location: (\w+), Base: \w+, Semaphore: (\w+)", _output("readelf", "-nW", path))
    assert note
    return Binary(
        path,
        {name: file_offset(symbols[name]) for name in ("probed", "also_probed", "trap")},
        (file_offset(int(note[1], 16)), file_offset(int(note[2], 16))),
    )


@pytest.fixture
def start_target(binary: Binary) -> Iterator[Callable[[], Target]]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> Target:
        started.append(subprocess.Popen([binary.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        target = Target(binary, started[-1])
        target.semaphore()  # answers once it has executed
        return target

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def target(start_target: Callable[[], Target]) -> Target:
    return start_target()


@pytest.fixture
def update_map() -> Callable[[int, bytes, bytes], None]:
    """Set one element of a map: BPF_MAP_UPDATE_ELEM, which the product has no use for."""

    def update(map_fd: int, key: bytes, value: bytes) -> None:
        raw_key, raw_value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
        bpf(
            Command.MAP_UPDATE_ELEM,
            MapElement(map_fd=map_fd, key=ctypes.addressof(raw_key), value=ctypes.addressof(raw_value)),
        )

    return update


@dataclass(frozen=True, slots=True)
class Counter:
    """Loaded programs by function name, "f0" to "f3", each adding to its own element of one map."""

    programs: dict[str, int]
    map_fd: int

    def counts(self) -> list[int]:
        return [value for _, value in sorted(numbers_by_key(read_map(self.map_fd, COUNTS)).items())]


@pytest.fixture
def create() -> Iterator[Callable[[MapShape], int]]:
    """Create maps that are closed when the test is over."""
    descriptors: list[int] = []

    def create_and_keep(shape: MapShape) -> int:
        descriptors.append(create_map(shape))
        return descriptors[-1]

    yield create_and_keep
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def load_counter() -> Iterator[Callable[[bool], Counter]]:
    descriptors: list[int] = []

    def load(uprobe_multi: bool) -> Counter:
        map_fd = create_map(COUNTS)
        descriptors.append(map_fd)
        programs = {}
        for index in range(COUNTS.max_entries):
            function = Function(f"f{index}", counting_code(index))
            programs[function.name] = load_program(function, {COUNTS.built_fd: map_fd}, uprobe_multi=uprobe_multi)
            descriptors.append(programs[function.name])
        return Counter(programs, map_fd)

    yield load
    for descriptor in descriptors:
        os.close(descriptor)


def counting_code(index: int) -> bytes:
    """Return instructions that add one to element `index` of the map."""
    return b"".join(
        struct.pack("<BBhi", *fields)
        for fields in (
            (0x62, 10, -4, index),  # *(u32 *)(r10 - 4) = index
            (0x18, 1 << 4 | 1, 0, COUNTS.built_fd),  # r1 = the map
            (0, 0, 0, 0),
            (0xBF, 10 << 4 | 2, 0, 0),  # r2 = r10
            (0x07, 2, 0, -4),  # r2 -= 4
            (0x85, 0, 0, 1),  # r0 = bpf_map_lookup_elem(r1, r2)
            (0x15, 0, 2, 0),  # if r0 == 0, skip two
            (0xB7, 1, 0, 1),  # r1 = 1
            (0xDB, 1 << 4, 0, 0),  # lock *(u64 *)r0 += r1
            (0xB7, 0, 0, 0),
            (0x95, 0, 0, 0),
        )
    )


@pytest.fixture
def open_descriptors() -> Callable[[], list[str]]:
    return lambda: sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.fixture
def as_nobody() -> Callable[..., tuple[str, str]]:
    """Return what calls a function as uid 65534, in a fork, and gives the reason and message of its AttachError."""

    def call_as_nobody(function: Callable[..., object], *arguments: object, **options: object) -> tuple[str, str]:
        answer, answer_in = os.pipe()
        child = os.fork()
        if child == 0:
            words = b"none\nno error"
            try:
                os.setresuid(65534, 65534, 65534)
                function(*arguments, **options)
            except AttachError as error:
                words = f"{error.reason}\n{error.message}".encode()
            finally:
                os.write(answer_in, words)
                os._exit(0)
        os.close(answer_in)
        with os.fdopen(answer) as reader:
            reason, _, message = reader.read().partition("\n")
        os.waitpid(child, 0)
        return reason, message

    return call_as_nobody


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
