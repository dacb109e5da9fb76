"""Makes complete configs of the pieces that the reference pages show."""

_LABEL = {"name": "number", "size": 4, "decoders": [{"name": "uint"}]}
_COUNTER = {"name": "calls_total", "table": "calls"}


def complete(**keys: object) -> dict[str, object]:
    """Return a config with one program that has these keys."""
    program = {
        "name": "complete",
        "metrics": {"counters": [{**_COUNTER, "labels": [_LABEL]}]},
        "uprobes": {"main": "on_call"},
        "attachment": {"binary_name": "python3"},
        "code": "BPF_HASH(calls, u32);",
    }
    return {"programs": [{**program, **keys}]}


def complete_counter(**keys: object) -> dict[str, object]:
    """Return a config with one counter that has these keys."""
    return complete(metrics={"counters": [{**_COUNTER, **keys}]})
