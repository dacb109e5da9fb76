"""Lays out this process's memory so that what its forked children write lies on few pages.

A child has for itself each page on which it writes, and Python writes wherever it looks: it counts references.
"""

import gc
import sys
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType

_POOL_BYTES = 16 << 10  # CPython's obmalloc.c: a pool has objects of one size, after a header
_POOL_HEADER_BYTES = 48
_LARGEST_BYTES = 512  # what is larger is in no pool
_MAX_FILLERS = 1 << 16  # of one size, should there be no pools: PYTHONMALLOC
_kept: list[object] = []


def gather_code(run: Callable[[], object]) -> None:
    """Call `run`, and put the code of all functions that it calls side by side.

    It was where it was read: file by file, among ten times as much that no worker calls.
    """
    gathered: dict[CodeType, CodeType] = {}

    def note(frame: FrameType, _event: str, _argument: object) -> None:
        gathered.setdefault(frame.f_code, frame.f_code)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    gc.unfreeze()  # what is frozen refers to nothing
    functions = [each for each in gc.get_referrers(*gathered) if isinstance(each, FunctionType)]
    gc.freeze()
    _kept.extend(gathered)  # that nothing else comes to lie there
    for code in gathered:
        gathered[code] = code.replace()
    for function in functions:
        function.__code__ = gathered[function.__code__]


def fill_holes() -> None:
    """Fill the holes between small objects, so that children's new ones come to lie side by side."""
    for size in range(64, _LARGEST_BYTES + 1, 16):
        for _ in range(_MAX_FILLERS):
            filler = bytes(size - sys.getsizeof(b""))
            _kept.append(filler)
            if id(filler) % _POOL_BYTES == _POOL_HEADER_BYTES:  # the first in a new pool
                break
