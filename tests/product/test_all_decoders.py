"""Every decoder at once: one struct of a C program, whose labels are what the program prints about itself."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ebpf_userspace_exporter.config.decoders import DECODER_SIZES
from tests.product.compiled import Target, compile_c, run_target
from tests.product.exporter import PREFIX, exporter
from tests.product.faults import fresh

pytestmark = pytest.mark.bpf

NAME = f"about{os.getpid()}"
# Shows the probe a struct about itself for each line on stdin, and prints what is in it, NAME=TEXT with | between;
# `pad` is none of the labels'. The stack's id is the probe's to fill in.
STRUCT = """
struct about {
    uint64_t cgroup, device, function;
    int64_t call;
    uint32_t interface, number;
    int32_t error, negative, stack;
    uint16_t port;
    uint8_t level, pad;
    uint8_t address[4], address6[16], mapped[16];
    uint8_t mac[6], signal, state;
    char path[32], name[20], domain[64];
};
"""
SOURCE = (
    r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
"""
    + STRUCT
    + r"""
__attribute__((noinline, noipa)) void look(const struct about *about) {
    __asm__ volatile("" ::"r"(about), "r"(__builtin_frame_address(0)) : "memory");
}
__attribute__((noinline, noipa)) static void show(const struct about *about) { look(about); __asm__ volatile(""); }

static void read_line(const char *path, const char *start, char *line, int size) {
    FILE *file = fopen(path, "r");
    while (fgets(line, size, file) && strncmp(line, start, strlen(start))) ;
    fclose(file);
    line[strcspn(line, "\n")] = 0;
}

int main(int argc, char **argv) {
    char line[4096], text[256];
    const char *mapped[] = {"off", "starting", "on"};
    while (fgets(line, sizeof line, stdin)) {
        unsigned turn = atoi(line);
        struct about about;
        struct stat status;
        memset(&about, 0xa5, sizeof about);

        about.number = 4000000000u + turn;
        printf("number=%u|", about.number);
        about.negative = -5 - (int)turn;
        printf("negative=%d|", about.negative);
        about.port = 8080 + turn;
        printf("port=%u|", about.port);
        about.level = turn % 3;
        printf("level=%s|", mapped[about.level]);
        about.state = 9;
        printf("state=unknown:%u|", about.state);
        for (int i = 0; i < 6; i++) about.mac[i] = 16 * i + turn;
        printf("mac=");
        for (int i = 0; i < 6; i++) printf("%02x", about.mac[i]);

        snprintf(about.name, sizeof about.name, "%.15s", program_invocation_short_name);
        printf("|name=%s|", about.name);
        snprintf(about.path, sizeof about.path, "/srv/site%u/index.html", turn);
        sscanf(about.path, "/srv/%255[^/]", text);
        printf("path=%s|", text);

        inet_pton(AF_INET, "192.0.2.1", about.address);
        about.address[3] += turn;
        printf("address=%s|", inet_ntop(AF_INET, about.address, text, sizeof text));
        inet_pton(AF_INET6, "2001:db8::ff00:1", about.address6);
        about.address6[15] += turn;
        printf("address6=%s|", inet_ntop(AF_INET6, about.address6, text, sizeof text));
        inet_pton(AF_INET6, "::ffff:198.51.100.7", about.mapped);
        printf("mapped=%s|", inet_ntop(AF_INET, about.mapped + 12, text, sizeof text));
        snprintf(text, sizeof text, "www%u.Example.org", turn);
        ns_name_pton(text, (unsigned char *)about.domain, sizeof about.domain);
        ns_name_ntop((unsigned char *)about.domain, text, sizeof text);
        printf("domain=%s|", text);

        about.error = close(-1) ? errno : 0;
        printf("error=%s|", strerrorname_np(about.error));
        about.signal = SIGTERM;
        printf("signal=SIG%s|", sigabbrev_np(about.signal));
        about.call = SYS_clock_nanosleep;
        printf("call=clock_nanosleep|");
        about.interface = if_nametoindex("lo");
        printf("interface=%s|", if_indextoname(about.interface, text));
        stat(argv[0], &status);
        about.device = status.st_dev;
        printf("device=%u:%u|", major(status.st_dev), minor(status.st_dev));
        stat(argv[1], &status);
        about.cgroup = status.st_ino;
        read_line("/proc/self/cgroup", "0::", text, sizeof text);
        printf("cgroup=%s|", text + 3);
        about.function = (uintptr_t)show;
        printf("function=show+0x0|stack=main;show;look\n");
        show(&about);
        fflush(stdout);
    }
    return argc ? 0 : 1;
}
"""
)
MEMBERS = re.findall(r"\b(?:(char|u?int\d+_t) )?(\w+)(?:\[(\d+)\])?[,;]", STRUCT)
LEVELS = {"0": "off", "1": "starting", "2": "on"}
DECODERS: dict[str, list[dict[str, object]]] = {
    "cgroup": [{"name": "cgroup"}],
    "device": [{"name": "majorminor"}],
    "function": [{"name": "usym"}],
    "call": [{"name": "syscall"}],
    "interface": [{"name": "ifname"}],
    "number": [{"name": "uint"}],
    "error": [{"name": "errno"}],
    "negative": [{"name": "int"}],
    "stack": [{"name": "ustack", "stack_table": "stacks"}],
    "port": [{"name": "uint"}],
    "level": [{"name": "uint"}, {"name": "static_map", "static_map": LEVELS}],
    "address": [{"name": "inet_ip"}],
    "address6": [{"name": "inet_ip"}],
    "mapped": [{"name": "inet_ip"}],
    "mac": [{"name": "hex"}],
    "signal": [{"name": "signal"}],
    "state": [{"name": "uint"}, {"name": "static_map", "static_map": LEVELS}],
    "path": [{"name": "string"}, {"name": "regexp", "regexps": ["^/tmp/(.*)", "^/srv/([^/]+)/"]}],
    "name": [{"name": "string"}],
    "domain": [{"name": "dname"}],
}
CODE = """
#include <uapi/linux/ptrace.h>
%s
BPF_STACK_TRACE(stacks, 1024);
BPF_HASH(seen, struct about, u64, 64);
int on_look(struct pt_regs *ctx) {
    struct about about = {};
    bpf_probe_read_user(&about, sizeof about, (void *)PT_REGS_PARM1(ctx));
    about.stack = stacks.get_stackid(ctx, BPF_F_USER_STACK);
    seen.increment(about);
    return 0;
}
"""


def labels() -> list[dict[str, object]]:
    """Return the labels, in the order of the struct's members and each of a member's size."""
    found: list[dict[str, object]] = []
    kind = ""
    for given, name, count in MEMBERS:
        kind = given or kind
        size = (1 if kind == "char" else int(re.findall(r"\d+", kind)[0]) // 8) * int(count or 1)
        if name == "pad":
            found[-1]["padding"] = size
        else:
            found.append({"name": name, "size": size, "decoders": DECODERS[name]})
    return found


def config() -> str:
    """Return a config with one counter that has a label for each member."""
    code = CODE % re.sub(r"\b(u?)int(\d+)_t", lambda found: ("u" if found[1] else "s") + found[2], STRUCT)
    counter = {"name": "seen_total", "table": "seen", "labels": labels()}
    program = {
        "name": "about",
        "attachment": {"binary_name": NAME},
        "metrics": {"counters": [counter]},
        "uprobes": {"look": "on_look"},
        "code": code,
    }
    return yaml.safe_dump({"programs": [program]}, sort_keys=False)


@contextlib.contextmanager
def cgroup_of_its_own() -> Iterator[Path]:
    """Make a cgroup of version 2 below the root."""
    mounts = Path("/proc/self/mountinfo").read_text()
    (root, *_) = re.findall(r"^\d+ \d+ \S+ / (\S+) .* - cgroup2 ", mounts, re.MULTILINE)
    folder = Path(root, f"exporter-test-{os.getpid()}")
    folder.mkdir()
    try:
        yield folder
    finally:
        folder.rmdir()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    binary = compile_c(SOURCE, tmp_path / NAME, "-fno-omit-frame-pointer")
    with cgroup_of_its_own() as cgroup, run_target(binary, cgroup) as running:
        (cgroup / "cgroup.procs").write_text(str(running.pid))
        yield running


def test_labels_of_every_decoder_are_what_the_program_prints_about_itself(target: Target) -> None:
    assert {str(step["name"]) for steps in DECODERS.values() for step in steps} == DECODER_SIZES.keys()
    with exporter(config()) as running:
        running.wait_attached("about", target.pid)
        said = []
        for turn in range(5):
            for _ in range(turn + 1):
                answer = target.tell(str(turn))
            said.append(dict(entry.split("=", 1) for entry in answer.split("|")))

        shown = {}
        for (name, pairs), value in fresh(running).items():
            if name == f"{PREFIX}seen_total":
                found = dict(pairs)
                found["stack"] = found["stack"][found["stack"].index("main;") :]  # before it is libc's own
                shown[int(value)] = found
        assert running.total("decode_errors_total") == 0

    assert shown == {turn + 1: own | {"pid": str(target.pid)} for turn, own in enumerate(said)}
    assert len(said[0]) == len(DECODERS) == 20
