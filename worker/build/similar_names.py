"""What somebody may have meant who wrote a name that there is not."""

import difflib
from collections.abc import Iterable

_MAX_LENGTH_DIFFERENCE = 2
_LEAST_RATIO = 0.75


def similar_functions(name: str, known: Iterable[str], limit: int = 5) -> list[str]:
    """Return a few of the known functions that contain the name, as a mangled one does, else those spelt nearly so."""
    names = set(known)
    containing = sorted((each for each in names if name in each), key=lambda each: (len(each), each))
    if containing:
        return containing[:limit]
    # difflib takes tens of microseconds for a pair, and a JVM has a hundred thousand functions.
    near = (each for each in names if abs(len(each) - len(name)) <= _MAX_LENGTH_DIFFERENCE)
    return difflib.get_close_matches(name, sorted(near), n=limit, cutoff=_LEAST_RATIO)


def similar_files(name: str, paths: Iterable[str]) -> list[str]:
    """Return the paths whose last part, or the library's name in it, is spelt nearly like the last part of `name`."""
    spelt: dict[str, list[str]] = {}
    for path in sorted(paths):
        base = path.rpartition("/")[2]
        for spelling in {base, base.partition(".so")[0], base.partition(".so")[0].removeprefix("lib")}:
            spelt.setdefault(spelling, []).append(path)
    near = difflib.get_close_matches(name.rpartition("/")[2], spelt, n=3)
    return list(dict.fromkeys(path for spelling in near for path in spelt[spelling]))[:3]
