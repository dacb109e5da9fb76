"""Every way to name a probe counts exactly: USDT in executables and libraries, uprobes by symbol, path and name."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product.compiled import SOURCE, Target, compile_c, run_target
from tests.product.exporter import Exporter, comm, exporter, series, until
from tests.product.faults import ATTACH_IDS, ATTACH_MODES, fresh

pytestmark = pytest.mark.bpf

LIBRARY = r"""
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>
__extension__ unsigned short shared_step_semaphore __attribute__((section(".probes")));
int is_watched(void) { return *(volatile unsigned short *)&shared_step_semaphore; }
__attribute__((noinline, noipa)) int twice(int x) {
    if (is_watched()) DTRACE_PROBE1(shared, step, x);
    return 2 * x;
}
"""
USER = r"""
#include <stdio.h>
int twice(int), is_watched(void);
int main(void) {
    char line[64];
    int times;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "twice %d", &times) == 1)
            for (int i = 0; i < times; i++) twice(i % 2 ? 21 : 4);
        printf("%d\n", is_watched());
        fflush(stdout);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(SOURCE, tmp_path_factory.mktemp("probes") / "xp-probes")


@pytest.fixture(scope="module")
def library_user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    library = compile_c(LIBRARY, folder / "libxptwice.so.1", "-shared", "-fPIC")
    return compile_c(USER, folder / "xp-user", "-x", "none", str(library), f"-Wl,-rpath,{folder}")


def config(binary_name: str, probes: str, value: str = "") -> str:
    """Return a config that counts by a number: in on_probe what `value` puts into `key`, in on_return the result."""
    return f"""
programs:
  - name: probes
    attachment: {{binary_name: {binary_name}}}
    {probes}
    metrics:
      counters:
        - name: probes_total
          table: counts
          labels: [{{name: key, size: 8, decoders: [{{name: uint}}]}}]
    code: |
      #include <uapi/linux/ptrace.h>
      BPF_HASH(counts, u64);
      int on_probe(struct pt_regs *ctx) {{
          u64 key = 0;
          {value};
          counts.increment(key);
          return 0;
      }}
      int on_return(struct pt_regs *ctx) {{
          u64 key = PT_REGS_RC(ctx);
          counts.increment(key);
          return 0;
      }}
"""


@contextlib.contextmanager
def counting(text: str, *targets: Target, environment: dict[str, str] | None = None) -> Iterator[Exporter]:
    with exporter(text, environment=environment) as running:
        running.wait_attached("probes", *(target.pid for target in targets))
        yield running


def counts(running: Exporter, target: Target) -> dict[int, float]:
    samples = fresh(running)
    return {
        key: samples[name] for key in range(256) if (name := series("probes_total", key=key, pid=target.pid)) in samples
    }


@pytest.mark.parametrize("attach", ATTACH_MODES, ids=ATTACH_IDS)
def test_usdt_probe_counts_at_all_its_locations_with_its_arguments(binary: Path, attach: dict[str, str]) -> None:
    read = "int place = 0, amount = 0; bpf_usdt_readarg(1, ctx, &place); bpf_usdt_readarg(2, ctx, &amount)"
    text = config("xp-probes", 'usdt: {"app:work": on_probe}', f"{read}; key = place * 64 + amount")
    with run_target(binary) as target, counting(text, target, environment=attach) as running:
        target.tell("work 7")

        assert counts(running, target) == {64 + 10: 7, 128 + 20: 7, 192 + 30: 7}


@pytest.mark.parametrize("attach", ATTACH_MODES, ids=ATTACH_IDS)
@pytest.mark.parametrize("name", ["step", "shared:step"])
def test_usdt_probe_of_a_shared_library_passes_its_semaphore(
    library_user: Path, name: str, attach: dict[str, str]
) -> None:
    text = config("xp-user", f'usdt: {{"{name}": on_probe}}', "int x = 0; bpf_usdt_readarg(1, ctx, &x); key = x")
    with run_target(library_user) as target:
        assert target.tell("") == "0"
        with counting(text, target, environment=attach) as running:
            assert target.tell("twice 9") != "0"

            assert counts(running, target) == {4: 5, 21: 4}
        assert target.tell("") == "0"


@pytest.mark.parametrize("name", ["libxptwice.so.1", "libxptwice", "xptwice", "PATH"])
def test_uprobe_in_a_library_by_its_name_or_path(library_user: Path, name: str) -> None:
    probe = name.replace("PATH", str(library_user.parent / "libxptwice.so.1"))
    text = config("xp-user", f'uprobes: {{"{probe}:twice": on_probe}}', "key = PT_REGS_PARM1(ctx)")
    with run_target(library_user) as target, counting(text, target) as running:
        target.tell("twice 9")

        assert counts(running, target) == {4: 5, 21: 4}


@pytest.mark.parametrize("attach", ATTACH_MODES, ids=ATTACH_IDS)
def test_uretprobe_sees_what_a_function_returns(library_user: Path, attach: dict[str, str]) -> None:
    text = config("xp-user", 'uretprobes: {"libxptwice.so.1:twice": on_return}')
    with run_target(library_user) as target, counting(text, target, environment=attach) as running:
        target.tell("twice 9")

        assert counts(running, target) == {8: 5, 42: 4}


def test_uprobe_and_uretprobe_of_the_executable_by_symbol(binary: Path) -> None:
    probes = "uprobes: {event: on_probe}\n    uretprobes: {event: on_return}"
    text = config("xp-probes", probes, "key = PT_REGS_PARM4(ctx)")
    with run_target(binary) as target, counting(text, target) as running:
        target.tell("event 0 /path 10.0.0.1 7 5")

        assert counts(running, target) == {7: 5, 14: 5}


@pytest.mark.parametrize("attach", ATTACH_MODES, ids=ATTACH_IDS)
def test_a_path_is_the_one_that_the_target_sees(library_user: Path, tmp_path: Path, attach: dict[str, str]) -> None:
    # In its own mount namespace the target has its library at a path where everybody else has another file.
    place = tmp_path / "place"
    place.mkdir()
    (place / "libxptwice.so.1").write_text("not this one")
    with in_namespace(library_user, place) as target:
        text = config("xp-user", f'uprobes: {{"{place}/libxptwice.so.1:twice": on_probe}}', "key = PT_REGS_PARM1(ctx)")
        with counting(text, target, environment=attach) as running:
            target.tell("twice 9")

            assert counts(running, target) == {4: 5, 21: 4}
    assert (place / "libxptwice.so.1").read_text() == "not this one"


def test_an_executable_that_was_deleted_is_still_found(tmp_path: Path) -> None:
    path = compile_c(SOURCE, tmp_path / "xp-deleted")
    text = config("xp-deleted", "uprobes: {event: on_probe}", "key = PT_REGS_PARM4(ctx)")
    with run_target(path) as target:
        until(lambda: comm(target.pid) == "xp-deleted", "it runs")
        path.unlink()
        with counting(text, target) as running:
            target.tell("event 0 /path 10.0.0.1 7 5")

            assert counts(running, target) == {7: 5}


def test_a_library_that_was_replaced_is_probed_where_it_is_mapped(library_user: Path, tmp_path: Path) -> None:
    library = tmp_path / "libxptwice.so.1"
    library.write_bytes((library_user.parent / "libxptwice.so.1").read_bytes())
    text = config("xp-user", f'uprobes: {{"{library}:twice": on_probe}}', "key = PT_REGS_PARM1(ctx)")
    with run_target("env", f"LD_PRELOAD={library}", library_user) as target:
        target.tell("")
        # As a package manager does it: a new file, renamed over the old one.
        replacement = tmp_path / "new"
        compile_c(LIBRARY.replace("return 2", "is_watched(); return 2"), replacement, "-shared", "-fPIC")
        replacement.rename(library)
        with counting(text, target) as running:
            target.tell("twice 9")

            assert counts(running, target) == {4: 5, 21: 4}


@contextlib.contextmanager
def in_namespace(library_user: Path, place: Path) -> Iterator[Target]:
    """Run the program in a mount namespace of its own, where its library lies at `place`."""
    folder = library_user.parent
    script = 'mount --bind "$1" "$2" && LD_LIBRARY_PATH="$2" LD_PRELOAD="$2/libxptwice.so.1" exec "$3"'
    with run_target("unshare", "-m", "sh", "-c", script, "sh", folder, place, library_user) as target:
        until(lambda: comm(target.pid) == "xp-user", "it runs")
        assert f"{place}/libxptwice.so.1" in Path(f"/proc/{target.pid}/maps").read_text()
        yield target
