"""A small WSGI app that gives the garbage collector work, and knows how much it did.

    gunicorn --pythonpath examples/gunicorn-gc --workers 4 app:app

`/` makes cyclic garbage and now and then collects all of it; `/stats` answers with this worker's pid, and how many
collections of each generation Python itself has counted and how many seconds they took, to be compared with what the
exporter counted from outside. It needs the standard library alone: it runs under the distribution's own gunicorn.
"""

import gc
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

CYCLES_A_REQUEST = 2000
COLLECT_ALL_SHARE = 0.1

type_text = [("Content-Type", "text/plain; charset=utf-8")]
type_json = [("Content-Type", "application/json")]


class Pauses:
    """How many seconds the collections of each generation took, from inside."""

    def __init__(self) -> None:
        self.seconds = [0.0, 0.0, 0.0]
        self.began = 0.0

    def __call__(self, phase: str, details: Mapping[str, int]) -> None:
        if phase == "start":
            self.began = time.perf_counter()
        else:
            self.seconds[details["generation"]] += time.perf_counter() - self.began


pauses = Pauses()
gc.callbacks.append(pauses)


def app(environ: Mapping[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    match environ["PATH_INFO"]:
        case "/":
            make_garbage()
            if random.random() < COLLECT_ALL_SHARE:
                gc.collect()
            start_response("200 OK", type_text)
            return [b"ok\n"]
        case "/stats":
            start_response("200 OK", type_json)
            collections = [generation["collections"] for generation in gc.get_stats()]
            stats = {"pid": os.getpid(), "collections": collections, "pause_seconds": pauses.seconds}
            return [json.dumps(stats).encode() + b"\n"]
        case _:
            start_response("404 Not Found", type_text)
            return [b"not found\n"]


def make_garbage() -> None:
    """Leave lists that hold themselves: only the collector can free those."""
    for _ in range(CYCLES_A_REQUEST):
        cycle: list[object] = []
        cycle.append(cycle)
