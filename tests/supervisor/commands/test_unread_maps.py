"""A map that is only written to is worth a warning, one that may be read is not."""

import pytest

from ebpf_userspace_exporter.config.model import Counter, Decoder, Label, Metrics, Program
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.supervisor.commands.unread_maps import unread_maps


def program(code: str, table: str = "seen", stack_table: str = "") -> Program:
    label = Label(name="stack", size=8, decoders=(Decoder(name="ustack", stack_table=stack_table),))
    counter = Counter(name="seen_total", table=table, labels=(label,))
    return Program(name="p", metrics=Metrics(counters=(counter,)), attachment=Selector(exe=("x",)), code=code)


@pytest.mark.parametrize(
    "use",
    [
        "other.increment(key);",
        "other.atomic_increment(key, 2);",
        "other . update(&key, &one);",
        "other.perf_submit(ctx, &event, sizeof(event));",
        "other.increment(key); // other.lookup(&key)",
        "/* other.lookup(&key) */ other.delete(&key);",
        'bpf_trace_printk("other %d", 1);',
        "",
    ],
)
def test_what_is_only_written_is_read_by_nobody(use: str) -> None:
    code = f"BPF_HASH(seen);\nBPF_HASH(other, u32, u64);\nint f(void *ctx) {{ {use} return 0; }}"

    assert list(unread_maps(program(code), ["seen", "other"])) == [
        "warning: map other: no metric reads it, nor does the code"
    ]


@pytest.mark.parametrize(
    "use",
    [
        "u64 *start = other.lookup(&key);",
        "u64 *count = other.lookup_or_try_init(&key, &zero);",
        "bpf_map_lookup_elem(&other, &key);",
        "other.call(ctx, 1);",
        "COUNT(other);",
        "other.increment(key); other.lookup(&key);",
    ],
)
def test_what_may_be_read_is_not_warned_of(use: str) -> None:
    code = f"BPF_HASH(seen);\nBPF_HASH(other);\nint f(void *ctx) {{ {use} return 0; }}"

    assert list(unread_maps(program(code), ["seen", "other"])) == []


def test_a_metric_reads_its_table_and_the_stacks_of_its_decoders() -> None:
    code = "BPF_HASH(seen);\nBPF_STACK_TRACE(stacks, 64);\nint f(void *ctx) { stacks.get_stackid(ctx, 0); return 0; }"

    assert list(unread_maps(program(code, stack_table="stacks"), ["seen", "stacks"])) == []
    assert list(unread_maps(program(code), ["seen", "stacks"])) != []


def test_a_name_that_begins_alike_is_another_map() -> None:
    code = "BPF_HASH(a);\nBPF_HASH(ab);\nint f(void *ctx) { ab.lookup(&key); a.increment(1); return 0; }"

    assert [warning.split()[2] for warning in unread_maps(program(code, "ab"), ["a", "ab"])] == ["a:"]


def test_maps_that_the_builder_adds_are_its_own_business() -> None:
    code = "BPF_PERF_OUTPUT(seen);\nint f(void *ctx) { seen.perf_submit(ctx, &key, 8); return 0; }"

    assert list(unread_maps(program(code), ["seen__lost", "seen"])) == []
