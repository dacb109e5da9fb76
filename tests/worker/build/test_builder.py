"""Images are right: what they are attached to counts what really happened, in the process built for and in others."""

import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.worker.bpf.links import attach
from ebpf_userspace_exporter.worker.bpf.maps import create_map
from ebpf_userspace_exporter.worker.bpf.programs import load_program
from ebpf_userspace_exporter.worker.bpf.reading import read_map
from ebpf_userspace_exporter.worker.build.process import read_warnings
from ebpf_userspace_exporter.worker.image import Image
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason
from ebpf_userspace_exporter.worker.target_files import fits, open_probed

pytestmark = pytest.mark.bpf

Build = Callable[[Program, int], Image]
MakeProgram = Callable[..., Program]

CODE = """
BPF_HASH(seen, u64);
int on_work(struct pt_regs *ctx) { u32 x = 0; bpf_usdt_readarg(1, ctx, &x); return x; }
int on_call(struct pt_regs *ctx) { u32 x = 0; bpf_usdt_readarg(1, ctx, &x); return x; }
"""

# What one order "g" does, by (probe, value).
WORK = {(1, 41): 3, (1, 40): 2}
LEVEL = {(2, 30): 1, (2, 31): 1}
SAME = {(3, 1): 3, (3, 2): 2}
CALLS = {(4, 0): 2}
RETURNS = {(5, 0): 1, (5, 2): 1}


@contextmanager
def attached(image: Image, pid: int) -> Iterator[Callable[[], dict[tuple[int, int], int]]]:
    with ExitStack() as stack:

        def closing(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        maps = {shape.built_fd: closing(create_map(shape)) for shape in image.maps}
        programs = {f.name: closing(load_program(f, maps, uprobe_multi=False)) for f in image.functions}
        files = [closing(open_probed(pid, file)) for file in image.files]
        for fd in attach(programs, image.probes, files, pid, uprobe_multi=False):
            closing(fd)
        shape = next(shape for shape in image.maps if shape.name == "seen")

        def counts() -> dict[tuple[int, int], int]:
            rows = read_map(maps[shape.built_fd], shape)
            values = struct.unpack(f"<{len(rows.keys)}Q", rows.leaves)
            return {struct.unpack("<QQ", key): value for key, value in zip(rows.keys, values, strict=True)}

        yield counts


@pytest.mark.parametrize("binary", ["pie_binary", "fixed_binary"])
def test_one_image_counts_every_location_in_every_process_of_the_binary(
    binary: str, build: Build, make_program: MakeProgram, start_target: Any, request: pytest.FixtureRequest
) -> None:
    targets = [start_target(request.getfixturevalue(binary)) for _ in range(2)]
    image = build(
        make_program(
            usdt={"app:work": "on_work", "level": "on_level"},
            uprobes={"twice": "on_call"},
            uretprobes={f"{targets[0].binary}:twice": "on_return"},
        ),
        targets[0].pid,
    )

    assert not image.process_bound
    assert [file.path for file in image.files] == [None]
    for target in targets:
        assert fits(image.files, target.pid)
        with attached(image, target.pid) as counts:
            assert target.order("g") == [2, 1, 0]  # one for each place
            assert counts() == WORK | LEVEL | CALLS | RETURNS
        assert target.order("") == [0, 0, 0]


@pytest.mark.parametrize(("binary", "bound"), [("pie_binary", True), ("fixed_binary", False)])
def test_locations_at_one_page_offset_bind_a_relocated_binary_to_its_process(
    *,
    binary: str,
    bound: bool,
    build: Build,
    make_program: MakeProgram,
    start_target: Any,
    request: pytest.FixtureRequest,
) -> None:
    target = start_target(request.getfixturevalue(binary))

    image = build(make_program(usdt={"same": "on_same"}), target.pid)

    assert image.process_bound is bound
    with attached(image, target.pid) as counts:
        target.order("g")
        assert counts() == SAME


SHARED = """
#include <uapi/linux/ptrace.h>
struct key_t { u64 probe; u64 value; };
BPF_HASH(seen, struct key_t, u64, 64);
int on_any(struct pt_regs *ctx) {
    struct key_t key = {.probe = 9};
    int x = -1;
    bpf_usdt_readarg(1, ctx, &x);
    key.value = x;
    seen.increment(key);
    return 0;
}
"""


def test_one_function_reads_the_arguments_of_several_probes(
    build: Build, make_program: MakeProgram, target: Any
) -> None:
    image = build(make_program(usdt={"work": "on_any", "level": "on_any"}, code=SHARED), target.pid)

    with attached(image, target.pid) as counts:
        target.order("g")
        assert counts() == {(9, value): number for (_, value), number in (WORK | LEVEL).items()}


def test_one_function_s_probes_may_be_in_several_files(
    build: Build, make_program: MakeProgram, compile_c: Any, start_target: Any, pie_binary: Path
) -> None:
    source = pie_binary.with_name("source.c").read_text()
    renamed = source.replace("app", "lib").replace("work", "job").replace("other", "another").replace("main", "library")
    library = compile_c(renamed, "-shared", "-fPIC", name="libjob.so")
    calling = source.replace("int main(", "void job_a(int, int);\nint main(").replace("twice(i);", "job_a(43, i);")
    binary = compile_c(calling, "-pie", "-fPIE", str(library), f"-Wl,-rpath,{library.parent}")
    target = start_target(binary)

    image = build(make_program(usdt={"app:work": "on_any", "lib:job": "on_any"}, code=SHARED), target.pid)

    assert [file.path for file in image.files] == [None, str(library)]
    with attached(image, target.pid) as counts:
        target.order("g")
        assert counts() == {(9, 43): 2, **{(9, value): number for (_, value), number in WORK.items()}}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (("int x = -1;", "u64 x = -1;"), 7),
        (("int x = -1;", "struct { char c; u16 x; } s = {};\n"), 8),
        (("readarg(1, ctx, &x)", "readarg( 1 , ctx, (char *)&x)"), 7),
    ],
)
def test_a_variable_of_another_size_than_the_argument_is_warned_of(
    *, changed: tuple[str, str], line: int, start_build: Any, make_program: MakeProgram, target: Any
) -> None:
    code = SHARED.replace(*changed).strip()
    if "u16" in changed[1]:
        code = code.replace("&x", "&s.x").replace("= x", "= s.x")
    size = 8 if "u64" in changed[1] else 2 if "u16" in changed[1] else 1
    building = start_build(make_program(usdt={"work": "on_any"}, code=code), target.pid)
    words = building.words()
    building.finish()

    [warning] = read_warnings(words)
    assert warning == (
        f"code:{line}: warning: on_any: bpf_usdt_readarg(1, …) reads nothing: "
        f"argument 1 has 4 bytes, the variable {size}"
    )


def test_what_fits_is_not_warned_of(start_build: Any, make_program: MakeProgram, target: Any) -> None:
    building = start_build(make_program(usdt={"work": "on_work", "level": "on_level"}), target.pid)
    words = building.words()
    building.finish()

    assert read_warnings(words) == ()


def test_a_binary_that_does_not_run_gives_the_image_that_its_process_gives(
    build: Build, build_for: Any, make_program: MakeProgram, target: Any
) -> None:
    program = make_program(usdt={"work": "on_work"}, uprobes={"twice": "on_call", "c:getaddrinfo": "on_call"})

    assert build_for(program, target.binary) == build(program, target.pid)


@pytest.mark.parametrize(
    ("changes", "reason", "saying"),
    [
        ({"usdt": {"wrk": "on_work"}}, Reason.PROBE_NOT_FOUND, "did you mean app:work?"),
        ({"uprobes": {"libnothing:twice": "on_call"}}, Reason.FILE_NOT_FOUND, "as far as it is known without running"),
        ({"uprobes": {"/opt/libc.so.6:main": "on_call"}}, Reason.FILE_NOT_FOUND, "gnu/libc.so.6?"),
    ],
)
def test_what_a_binary_has_not_is_told(
    *, changes: dict[str, Any], reason: Reason, saying: str, build_for: Any, make_program: MakeProgram, pie_binary: Path
) -> None:
    with pytest.raises(AttachError) as caught:
        build_for(make_program(**changes), pie_binary)

    assert caught.value.reason is reason
    assert saying in caught.value.message


def test_offsets_are_those_of_readelf(build: Build, make_program: MakeProgram, pie_binary: Path, target: Any) -> None:
    notes = subprocess.run(["readelf", "-nW", pie_binary], capture_output=True, text=True, check=True).stdout
    sections = subprocess.run(["readelf", "-SW", pie_binary], capture_output=True, text=True, check=True).stdout
    moved = {
        name: int(address, 16) - int(offset, 16)
        for name, address, offset in re.findall(r"(\.text|\.probes) +PROGBITS +(\w+) (\w+)", sections)
    }
    places = re.findall(r"Name: work\n\s*Location: 0x(\w+), Base: 0x\w+, Semaphore: 0x(\w+)", notes)

    image = build(make_program(usdt={"work": "on_work"}), target.pid)

    assert len(places) == 2
    assert {(probe.offset, probe.ref_ctr_offset) for probe in image.probes} == {
        (int(location, 16) - moved[".text"], int(semaphore, 16) - moved[".probes"]) for location, semaphore in places
    }


def test_python_gc_probe_is_found_in_a_real_python(build: Build, make_program: MakeProgram) -> None:
    binary = os.path.realpath("/usr/bin/python3")
    notes = subprocess.run(["readelf", "-n", binary], capture_output=True, text=True, check=True).stdout
    location, semaphore = re.findall(r"Name: gc__start\n\s*Location: 0x(\w+), Base: 0x\w+, Semaphore: 0x(\w+)", notes)[
        0
    ]
    with subprocess.Popen([binary, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=-1) as process:
        assert process.stdout
        process.stdout.readline()
        image = build(make_program(usdt={"gc__start": "on_level"}), process.pid)

    segments = subprocess.run(["readelf", "-lW", binary], capture_output=True, text=True, check=True).stdout
    loads = [tuple(int(n, 16) for n in load) for load in re.findall(r"LOAD +(\w+) (\w+) \w+ (\w+)", segments)]

    def offset_of(address: str) -> int:
        return next(int(address, 16) - at + offset for offset, at, size in loads if at <= int(address, 16) < at + size)

    [probe] = image.probes
    assert (probe.offset, probe.ref_ctr_offset) == (offset_of(location), offset_of(semaphore))


def test_libraries_are_found_by_path_by_link_and_by_name(build: Build, make_program: MakeProgram, target: Any) -> None:
    names = ["c:getaddrinfo", "libc:getaddrinfo", "libc.so.6:getaddrinfo"]
    [mapped] = {
        line.split()[-1]
        for line in Path(f"/proc/{target.pid}/maps").read_text().splitlines()
        if line.endswith("/libc.so.6")
    }
    names += [f"{mapped}:getaddrinfo", f"{mapped.removeprefix('/usr')}:getaddrinfo"]

    image = build(make_program(uprobes=dict.fromkeys(names, "on_call")), target.pid)

    assert [file.path for file in image.files] == [mapped]
    assert len(image.probes) == 1


def test_all_maps_are_in_the_image_with_the_shape_that_the_kernel_gave_them(
    build: Build, make_program: MakeProgram, target: Any
) -> None:
    code = """
    BPF_PERF_OUTPUT(events); BPF_RINGBUF_OUTPUT(ring, 8); BPF_STACK_TRACE(stacks, 128);
    BPF_HISTOGRAM(seen); BPF_PERCPU_ARRAY(scratch, u64, 3); BPF_TABLE("lru_percpu_hash", u32, u64, recent, 10);
    int kprobe__sys_sync(void *ctx) { return 0; }
    int on_call(struct pt_regs *ctx) { seen.increment(1); return 0; }
    """

    image = build(make_program(uprobes={"twice": "on_call"}, code=code, labels=()), target.pid)

    shapes = {shape.name: (shape.kind, shape.key_bytes, shape.leaf_bytes, shape.max_entries) for shape in image.maps}
    assert shapes == {
        "events": (4, 4, 4, os.cpu_count()),
        "ring": (27, 0, 0, 8 * os.sysconf("SC_PAGESIZE")),
        "stacks": (7, 4, 127 * 8, 128),
        "seen": (2, 4, 8, 64),
        "scratch": (6, 4, 8, 3),
        "recent": (10, 4, 8, 10),
        "events__lost": (2, 4, 8, 1),
        "ring__lost": (2, 4, 8, 1),
    }
    assert [function.name for function in image.functions] == ["on_call"]


@pytest.mark.parametrize(
    ("changes", "reason", "saying"),
    [
        ({"code": "int on_call(struct pt_regs *ctx) { return nothing; }"}, Reason.COMPILE, "code:1:43: error: use of"),
        (
            {"code": "#include <linux/nothing.h>\nint on_call(void *ctx) { return 0; }"},
            Reason.COMPILE,
            "linux/nothing.h",
        ),
        (
            {
                "code": "BPF_HASH(seen);\nint on_call(struct pt_regs *ctx) {\n"
                "char big[600] = {}; bpf_probe_read(big, 600, ctx); u64 k = big[3]; seen.increment(k); return 0; }"
            },
            Reason.STACK_SIZE,
            "512 bytes",
        ),
        ({"table": "sen"}, Reason.UNKNOWN_TABLE, "did you mean seen?"),
        ({"uprobes": {"twice": "on_cal"}}, Reason.UNKNOWN_FUNCTION, "did you mean on_call?"),
        ({"uprobes": {"nonsense": "on_call"}}, Reason.SYMBOL_NOT_FOUND, "has no function nonsense: it may be inlined"),
        ({"uprobes": {"wice": "on_call"}}, Reason.SYMBOL_NOT_FOUND, "it may be inlined; did you mean twice?"),
        ({"uprobes": {"twcie": "on_call"}}, Reason.SYMBOL_NOT_FOUND, "did you mean twice?"),
        ({"uprobes": {"getchar": "on_call"}}, Reason.SYMBOL_NOT_FOUND, "did you mean libc.so.6:getchar?"),
        ({"uprobes": {"c:mallco": "on_call"}}, Reason.SYMBOL_NOT_FOUND, "stripped of all but exported functions"),
        ({"uprobes": {"c:mallco": "on_call"}}, Reason.SYMBOL_NOT_FOUND, "did you mean malloc"),
        ({"uprobes": {"c:memcpy": "on_call"}}, Reason.SYMBOL_NOT_FOUND, "IFUNC"),
        ({"uprobes": {"libnothing:twice": "on_call"}}, Reason.FILE_NOT_FOUND, "it maps ld-linux"),
        ({"uprobes": {"libc.so.5:twice": "on_call"}}, Reason.FILE_NOT_FOUND, "did you mean libc.so.6?"),
        ({"uprobes": {"/usr/bin/env:main": "on_call"}}, Reason.FILE_NOT_FOUND, "/usr/bin/env: not mapped"),
        ({"uprobes": {"/opt/libc.so.6:main": "on_call"}}, Reason.FILE_NOT_FOUND, "gnu/libc.so.6?"),
        ({"usdt": {"wrk": "on_work"}}, Reason.PROBE_NOT_FOUND, "did you mean app:work?"),
        ({"usdt": {"ap:work": "on_work"}}, Reason.PROBE_NOT_FOUND, "did you mean app:work?"),
        ({"usdt": {"twin": "on_call"}}, Reason.PROBE_AMBIGUOUS, "app:twin in"),
        (
            {"usdt": {"work": "on_work"}, "code": CODE.replace("readarg(1", "readarg(3")},
            Reason.COMPILE,
            "the probe app:work has 2 arguments, the code asks for number 3",
        ),
        ({"code": CODE, "labels": ()}, Reason.COMPILE, "bpf_usdt_readarg is for the functions of USDT probes alone"),
        (
            {"code": "BPF_STACK_TRACE(seen, 8); int on_call(void *ctx) { return 0; }", "labels": ()},
            Reason.MAP_TYPE,
            "STACK_TRACE",
        ),
        (
            {"code": "BPF_HASH(seen, u64, struct {u8 x[3];}); int on_call(void *ctx) { return 0; }", "labels": ()},
            Reason.MAP_TYPE,
            "3 bytes",
        ),
        (
            {"code": 'BPF_HASH(in, u32); BPF_HASH_OF_MAPS(out, u32, "in", 8);int on_call(void *ctx) { return 0; }'},
            Reason.MAP_TYPE,
            "map out",
        ),
        ({"code": 'BPF_TABLE_PINNED("hash", u64, u64, seen, 8, "/sys/fs/bpf/x");'}, Reason.MAP_TYPE, "PINNED"),
        (
            {"code": "BPF_HASH(seen, u32); int on_call(struct pt_regs *ctx) { return 0; }"},
            Reason.KEY_SIZE,
            "labels have 16 bytes (probe 8, value 8), the key of table seen has 4",
        ),
    ],
)
def test_what_cannot_be_built_says_why(
    *, changes: dict[str, Any], reason: Reason, saying: str, build: Build, make_program: MakeProgram, target: Any
) -> None:
    with pytest.raises(AttachError) as caught:
        build(make_program(**{"uprobes": {} if "usdt" in changes else {"twice": "on_call"}, **changes}), target.pid)

    assert caught.value.reason is reason
    assert saying in caught.value.message + caught.value.diagnostics


def test_a_call_that_is_not_inlined_is_refused(build: Build, make_program: MakeProgram, target: Any) -> None:
    code = """
    #include <uapi/linux/ptrace.h>
    #undef noinline
    BPF_HASH(seen);
    static int __attribute__((__noinline__)) odd(struct pt_regs *ctx) { return ctx->ip & 1; }
    int on_call(struct pt_regs *ctx) { return odd(ctx); }
    """

    with pytest.raises(AttachError, match="not inlined") as caught:
        build(make_program(uprobes={"twice": "on_call"}, code=code, labels=()), target.pid)

    assert caught.value.reason is Reason.COMPILE


def test_a_probe_of_two_mapped_files_is_ambiguous(
    build: Build, make_program: MakeProgram, compile_c: Any, start_target: Any, pie_binary: Path
) -> None:
    source = pie_binary.with_name("source.c").read_text()
    library = compile_c(source.replace("int main(", "int library("), "-shared", "-fPIC", name="libtwin.so")
    binary = compile_c(source, "-pie", "-fPIE", "-Wl,--no-as-needed", str(library), f"-Wl,-rpath,{library.parent}")
    target = start_target(binary)

    with pytest.raises(AttachError, match=re.escape(str(library))) as caught:
        build(make_program(usdt={"app:work": "on_work"}), target.pid)

    assert caught.value.reason is Reason.PROBE_AMBIGUOUS


def test_uretprobes_in_go_binaries_are_refused_unless_forced_and_uprobes_are_not(
    build: Build, make_program: MakeProgram, pie_binary: Path, start_target: Any, tmp_path: Path
) -> None:
    (tmp_path / "buildinfo").write_bytes(b"\xff Go buildinf:")
    binary = tmp_path / "go"
    command = ["objcopy", "--add-section", f".go.buildinfo={tmp_path}/buildinfo", str(pie_binary), str(binary)]
    subprocess.run(command, check=True, timeout=60)
    target = start_target(binary)

    with pytest.raises(AttachError) as caught:
        build(make_program(uretprobes={"twice": "on_return"}), target.pid)

    assert caught.value.reason is Reason.GO_URETPROBE
    assert build(make_program(uprobes={"twice": "on_call"}), target.pid).probes
    forced = make_program(uretprobes={"twice": "on_return"}).model_copy(update={"allow_go_uretprobes": True})
    assert build(forced, target.pid).probes


FIVE_BYTES = """
#include <stdio.h>
#include <sys/sdt.h>
__asm__(".macro five_bytes; .byte 0x0f, 0x1f, 0x44, 0x00, 0x00; .endm; .macro six_bytes; nop; five_bytes; .endm");
#undef _SDT_NOP
#define _SDT_NOP five_bytes
__attribute__((noipa)) void five(int x) { DTRACE_PROBE1(app, five, x); }
__attribute__((naked, noipa)) void begins(void) { __asm__("five_bytes; ret"); }
#undef _SDT_NOP
#define _SDT_NOP six_bytes
__attribute__((noipa)) void six(int x) { DTRACE_PROBE1(app, six, x); }
int main(void) { five(getchar()); six(1); begins(); return 0; }
"""


def test_a_usdt_probe_where_the_kernel_would_overwrite_variables_is_refused(
    build_for: Any, make_program: MakeProgram, compile_c: Any
) -> None:
    binary = compile_c(FIVE_BYTES)

    with pytest.raises(AttachError, match=r"app:five: .*: it is a nop of five bytes") as caught:
        build_for(make_program(usdt={"app:five": "on_work"}), binary)

    assert caught.value.reason is Reason.RED_ZONE
    assert build_for(make_program(usdt={"app:six": "on_work"}), binary).probes
    assert build_for(make_program(uprobes={"begins": "on_call"}), binary).probes
