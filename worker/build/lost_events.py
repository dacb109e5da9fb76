"""C that counts the events for which there was no place: the kernel counts none that a ring buffer refuses.

Each event table gets a table of one number declared in front of it. bcc turns `events.perf_submit(…)` and its like into
calls of the kernel's helpers with `(void *)bpf_pseudo_fd(1, N)` for the table; as macros, these names then lead to
functions that look at the result. N counts down from -1 in the order of declaration, so the number of the table in
front is N + 1. A perf buffer's refusals are counted in the same way, also while nobody reads it, which the kernel
itself does not do.

With that comes when to wake the reader of a ring buffer: the code's own flags, else, as for a perf buffer, at a
quarter. Where a record is reserved and submitted, the table is not known any more: there the kernel's rule holds, which
wakes whoever has read everything at the next event.
"""

import re

_DECLARATION = re.compile(r"\bBPF_(?:PERF|RINGBUF)_OUTPUT\s*\(\s*(\w+)")
_SUFFIX = "__lost"

_COUNTING = """
#define EVENTS_INLINE static inline __attribute__((always_inline))
EVENTS_INLINE void events_count_lost(u64 table) {
  int only = 0;
  u64 *lost = bpf_map_lookup_elem_(table, &only);
  if (lost) __sync_fetch_and_add(lost, 1);
}
EVENTS_INLINE long events_perf_output(u64 table, void *ctx, void *map, u64 flags, void *event, u64 size) {
  long refused = bpf_perf_event_output(ctx, map, flags, event, size);
  if (refused) events_count_lost(table);
  return refused;
}
EVENTS_INLINE long events_ringbuf_output(u64 table, void *map, void *event, u64 size, u64 flags) {
  if (!flags) {
    u64 waiting = bpf_ringbuf_query(map, BPF_RB_AVAIL_DATA);
    flags = waiting < bpf_ringbuf_query(map, BPF_RB_RING_SIZE) / 4 ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP;
  }
  long refused = bpf_ringbuf_output(map, event, size, flags);
  if (refused) events_count_lost(table);
  return refused;
}
EVENTS_INLINE void *events_ringbuf_reserve(u64 table, void *map, u64 size, u64 flags) {
  void *record = bpf_ringbuf_reserve(map, size, flags);
  if (!record) events_count_lost(table);
  return record;
}
#define EVENTS_LOST_TABLE(name) BPF_ARRAY(name##__lost, u64, 1);
#define EVENTS_WITHOUT_CAST(type)
#define EVENTS_BEFORE_bpf_pseudo_fd(kind, number) bpf_pseudo_fd(kind, (number) + 1)
#define EVENTS_JOIN(...) EVENTS_BEFORE_##__VA_ARGS__
#define EVENTS_EXPAND(...) EVENTS_JOIN(__VA_ARGS__)
#define EVENTS_BEFORE(map) EVENTS_EXPAND(EVENTS_WITHOUT_CAST map)
#define bpf_perf_event_output(ctx, map, ...) events_perf_output(EVENTS_BEFORE(map), ctx, map, __VA_ARGS__)
#define bpf_ringbuf_output(map, ...) events_ringbuf_output(EVENTS_BEFORE(map), map, __VA_ARGS__)
#define bpf_ringbuf_reserve(map, ...) events_ringbuf_reserve(EVENTS_BEFORE(map), map, __VA_ARGS__)
"""


def counting_code(code: str) -> tuple[str, str]:
    """Return what goes in front of the code, and the code with its event tables declared so that losses count.

    The lines of the code stay where they are. Without event tables both are as they were: nothing, and the code.
    """
    counting, declarations = _DECLARATION.subn(r"EVENTS_LOST_TABLE(\1) \g<0>", code)
    return (_COUNTING, counting) if declarations else ("", code)


def lost_table(event_table: str) -> str:
    """Return the name of the table with the number of events that `event_table` had no place for."""
    return event_table + _SUFFIX


def is_lost_table(table: str) -> bool:
    """Whether a table is not the program's own but one of these."""
    return table.endswith(_SUFFIX)
