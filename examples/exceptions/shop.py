"""Raises exceptions for each line on stdin, and answers with how many of each type it has caught so far.

    while sleep 0.2; do echo; done | /usr/bin/python3 shop.py

It catches all of them, as most programs do with most of theirs: nothing of it is in any log.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable

caught: Counter[str] = Counter()
prices: dict[str, int] = {}
queue: list[str] = []


class SoldOutError(Exception):
    """Raised by the shop itself."""


def sell(article: str) -> None:
    raise SoldOutError(article)


def sell_or_log(article: str) -> None:
    """Catch the exception and raise the same one again: that is one, not two."""
    try:
        sell(article)
    except SoldOutError:
        raise


ATTEMPTS: tuple[tuple[Callable[[], object], int], ...] = (
    (lambda: sell("tea"), 5),
    (lambda: sell_or_log("tea"), 4),
    (lambda: prices["tea"], 3),
    (lambda: "tea".index("coffee"), 2),
    (lambda: queue[0], 2),
    (lambda: 1 // 0, 1),
    (lambda: os.chdir("/nowhere"), 1),
    (lambda: next(iter(queue)), 1),
)


def attempt(what: Callable[[], object]) -> None:
    try:
        what()
    except Exception as error:
        caught[type(error).__name__] += 1


def main() -> None:
    for _ in sys.stdin:
        for what, times in ATTEMPTS:
            for _ in range(times):
                attempt(what)
        print(json.dumps(caught), flush=True)


if __name__ == "__main__":
    main()
