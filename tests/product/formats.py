"""Every kind of map, decoder and histogram in one program, and what it must show for a list of events."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """A call of event() in the target, `times` times."""

    code: int
    path: str
    address: str
    amount: int
    times: int


# Amounts stay below 60, so that they have a bucket in each histogram.
EVENTS = (
    Event(0, "/api/users", "10.0.0.1", 1, 3),
    Event(0, "/api/users", "10.0.0.2", 7, 2),
    Event(1, "/api/items", "10.0.0.2", 20, 4),
    Event(2, "/health", "192.168.1.9", 59, 5),
    Event(7, '/api/"a\\b"', "255.255.255.255", 33, 6),
    Event(7, "/api/caf\udcff", "255.255.255.255", 33, 1),  # no UTF-8
    Event(6, "/six", "2001:db8::17", 8, 7),
)

CODE = """
#include <uapi/linux/ptrace.h>

struct request_t { u32 code; char path[16]; u8 address[4]; };
struct path_t { char path[16]; };
struct address_t { u8 address[16]; };
struct numbers_t { u8 small; u8 gap; u16 middle; u32 other_gap; u64 large; };
struct bucket_t { u32 code; u32 bucket; };

BPF_HASH(requests, struct request_t);
BPF_HASH(operations, u32);
BPF_HASH(pages, struct path_t);
BPF_HASH(addresses, struct address_t);
BPF_HASH(numbers, struct numbers_t);
BPF_HASH(everything, u32);
BPF_PERCPU_HASH(by_cpu, u32);
BPF_PERCPU_ARRAY(total_by_cpu, u64, 1);
BPF_TABLE("lru_hash", u32, u64, recent, 1024);
BPF_ARRAY(slots, u64, 10);
BPF_HISTOGRAM(powers, int, 9);
BPF_HISTOGRAM(powers_from_zero, int, 9);
BPF_HISTOGRAM(steps, struct bucket_t);
BPF_HISTOGRAM(chosen, u64);

int on_event(struct pt_regs *ctx) {
    u32 code = PT_REGS_PARM1(ctx);
    const char *path = (const char *)PT_REGS_PARM2(ctx);
    const void *address = (const void *)PT_REGS_PARM3(ctx);
    u64 amount = PT_REGS_PARM4(ctx);
    int zero = 0;

    struct request_t request = {.code = code};
    bpf_probe_read_user_str(&request.path, sizeof(request.path), path);
    bpf_probe_read_user(&request.address, sizeof(request.address), address);
    requests.increment(request);
    operations.increment(code);
    everything.increment(code);
    slots.increment(code);
    u64 *total = total_by_cpu.lookup(&zero);
    if (total)
        *total += 1;
    u64 none = 0;  // bcc's increment makes no new keys in these two
    u64 *here = by_cpu.lookup_or_try_init(&code, &none);
    if (here)
        *here += 1;
    u64 *last = recent.lookup_or_try_init(&code, &none);
    if (last)
        *last += 1;

    struct path_t page = {};
    __builtin_memcpy(&page.path, &request.path, sizeof(page.path));
    pages.increment(page);
    if (code == 6) {
        struct address_t key = {};
        bpf_probe_read_user(&key.address, sizeof(key.address), address);
        addresses.increment(key);
    }
    struct numbers_t number = {.small = 200 + code, .gap = 1, .middle = 60000 + code, .large = -1 - (u64)code};
    numbers.increment(number);

    powers.increment(bpf_log2l(amount));
    powers.increment(8, amount);
    powers_from_zero.increment(bpf_log2l(amount));
    powers_from_zero.increment(8, amount);
    struct bucket_t step = {.code = code, .bucket = amount / 10};
    steps.increment(step);
    step.bucket = 7;
    steps.increment(step, amount);
    u64 limit = amount <= 5 ? 5 : amount <= 25 ? 25 : 125;
    chosen.increment(limit);
    limit = 126;
    chosen.increment(limit, amount);
    return 0;
}
"""

UINT = "[{name: uint}]"


def config(binary_name: str) -> str:
    """Return a config with all of it, for processes of that comm."""
    code = "".join(f"      {line}\n" for line in CODE.splitlines())
    return f"""
programs:
  - name: formats
    attachment: {{binary_name: {binary_name}}}
    uprobes: {{event: on_event}}
    metrics:
      counters:
        - name: formats_requests_total
          help: Several labels.
          table: requests
          labels:
            - name: operation
              size: 4
              decoders: [{{name: uint}}, {{name: static_map, static_map: {{0: read, 1: write}}}}]
            - {{name: path, size: 16, decoders: [{{name: string}}]}}
            - {{name: address, size: 4, decoders: [{{name: inet_ip}}]}}
        - name: formats_operations
          help: Keys that decode to the same labels; a name without _total.
          table: operations
          labels:
            - name: operation
              size: 4
              decoders:
                - {{name: uint}}
                - {{name: static_map, allow_unknown: true, static_map: {{0: read, 1: write, 2: read}}}}
        - name: formats_pages_total
          help: A pattern that leaves rows out.
          table: pages
          labels:
            - {{name: page, size: 16, decoders: [{{name: string}}, {{name: regexp, regexps: ["^/api/(.*)$"]}}]}}
        - name: formats_addresses_total
          help: IPv6.
          table: addresses
          labels: [{{name: address, size: 16, decoders: [{{name: inet_ip}}]}}]
        - name: formats_numbers_total
          help: Unsigned numbers of several sizes, with padding.
          table: numbers
          labels:
            - {{name: small, size: 1, padding: 1, decoders: {UINT}}}
            - {{name: middle, size: 2, padding: 4, decoders: {UINT}}}
            - {{name: large, size: 8, decoders: {UINT}}}
        - {{name: formats_everything_total, help: No labels., table: everything}}
        - name: formats_by_cpu_total
          help: A per-CPU hash.
          table: by_cpu
          labels: [{{name: code, size: 4, decoders: {UINT}}}]
        - {{name: formats_total_by_cpu_total, help: A per-CPU array., table: total_by_cpu}}
        - name: formats_recent_total
          help: An LRU hash.
          table: recent
          labels: [{{name: code, size: 4, decoders: {UINT}}}]
        - name: formats_slots_total
          help: An array.
          table: slots
          labels: [{{name: code, size: 4, decoders: {UINT}}}]
      histograms:
        - name: formats_powers_seconds
          help: exp2 with a multiplier.
          table: powers
          bucket_type: exp2
          bucket_min: 0
          bucket_max: 7
          bucket_multiplier: 0.000001
          labels: [{{name: bucket, size: 4, decoders: {UINT}}}]
        - name: formats_powers_from_zero
          help: exp2zero.
          table: powers_from_zero
          bucket_type: exp2zero
          bucket_min: 0
          bucket_max: 7
          labels: [{{name: bucket, size: 4, decoders: {UINT}}}]
        - name: formats_steps
          help: linear with a multiplier and one more label.
          table: steps
          bucket_type: linear
          bucket_min: 0
          bucket_max: 6
          bucket_multiplier: 10
          labels:
            - {{name: code, size: 4, decoders: {UINT}}}
            - {{name: bucket, size: 4, decoders: {UINT}}}
        - name: formats_chosen
          help: fixed with a multiplier.
          table: chosen
          bucket_type: fixed
          bucket_keys: [5, 25, 125]
          bucket_multiplier: 0.5
          labels: [{{name: bucket, size: 8, decoders: {UINT}}}]
    code: |
{code}"""


def expected(prefix: str, pid: int, rounds: int) -> Series:
    """Return every sample that the program must show after so many rounds of EVENTS."""
    series: Series = {}
    for name, labels, value in _expected():
        series[prefix + name, frozenset({**labels, "pid": str(pid)}.items())] = value * rounds
    return series


def _expected() -> Iterator[tuple[str, Labels, float]]:
    operation = {0: "read", 1: "write"}
    yield from _counted(
        "formats_requests_total",
        lambda event: {
            "operation": operation.get(event.code, f"unknown:{event.code}"),
            "path": _text(event.path),
            "address": event.address if "." in event.address else "32.1.13.184",
        },
    )
    merged = {0: "read", 1: "write", 2: "read"}
    yield from _counted("formats_operations", lambda event: {"operation": merged.get(event.code, str(event.code))})
    yield from _counted(
        "formats_pages_total",
        lambda event: {"page": _text(event.path).removeprefix("/api/")},
        [event for event in EVENTS if event.path.startswith("/api/")],
    )
    yield from _counted(
        "formats_addresses_total", lambda event: {"address": event.address}, [e for e in EVENTS if e.code == 6]
    )
    yield from _counted(
        "formats_numbers_total",
        lambda event: {
            "small": str(200 + event.code),
            "middle": str(60000 + event.code),
            "large": str((1 << 64) - 1 - event.code),
        },
    )
    yield from _counted("formats_everything_total", lambda _: {})
    yield from _counted("formats_by_cpu_total", lambda event: {"code": str(event.code)})
    yield from _counted("formats_total_by_cpu_total", lambda _: {})
    yield from _counted("formats_recent_total", lambda event: {"code": str(event.code)})
    used = {event.code for event in EVENTS}
    yield from _counted("formats_slots_total", lambda event: {"code": str(event.code)})
    yield from (("formats_slots_total", {"code": str(code)}, 0) for code in range(10) if code not in used)

    powers = {f"{bound}e-06": bound * 1e-6 for bound in (1, 2, 4, 8)}
    powers |= {"1.6e-05": 1.6e-5, "3.2e-05": 3.2e-5, "6.4e-05": 6.4e-5, "0.000128": 1.28e-4}
    # bpf_log2l gives the number of bits, so a value equal to a bound of exp2 is in the bucket above.
    yield from _distributed("formats_powers_seconds", powers, lambda event: 2.0 ** _bits(event) * 1e-6, 1e-6)
    zero = {"0.0": 0.0} | {f"{2.0**key}": 2.0**key for key in range(7)}
    yield from _distributed("formats_powers_from_zero", zero, lambda event: 2.0 ** (_bits(event) - 1), 1)
    steps = {f"{bound}.0": float(bound) for bound in range(0, 70, 10)}
    for code in sorted(used):
        events = [event for event in EVENTS if event.code == code]
        yield from _distributed(
            "formats_steps",
            steps,
            lambda event: event.amount // 10 * 10.0,
            10,
            labels={"code": str(code)},
            events=events,
        )
    yield from _distributed(
        "formats_chosen",
        {"2.5": 2.5, "12.5": 12.5, "62.5": 62.5},
        lambda event: next(key for key in (5, 25, 125) if event.amount <= key) * 0.5,
        0.5,
    )


def _counted(
    name: str, labels_of: Callable[[Event], Labels], events: Iterable[Event] = EVENTS
) -> Iterator[tuple[str, Labels, float]]:
    counts: Counter[frozenset[tuple[str, str]]] = Counter()
    for event in events:
        counts[frozenset(labels_of(event).items())] += event.times
    for labels, count in counts.items():
        yield name, dict(labels), count


def _distributed(
    name: str,
    bounds: dict[str, float],
    bound_of: Callable[[Event], float],
    multiplier: float,
    *,
    labels: Labels | None = None,
    events: Iterable[Event] = EVENTS,
) -> Iterator[tuple[str, Labels, float]]:
    labels, events = labels or {}, list(events)
    for text, bound in bounds.items():
        below = sum(event.times for event in events if bound_of(event) <= bound * 1.0000001)
        yield f"{name}_bucket", {**labels, "le": text}, below
    count = sum(event.times for event in events)
    yield f"{name}_bucket", {**labels, "le": "+Inf"}, count
    yield f"{name}_count", labels, count
    yield f"{name}_sum", labels, sum(event.times * event.amount for event in events) * multiplier


def _bits(event: Event) -> int:
    return event.amount.bit_length()


def _text(path: str) -> str:
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
