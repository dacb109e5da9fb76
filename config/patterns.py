"""The patterns that a config may hold: RE2's, which take linear time on hostile texts."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import re2

from ebpf_userspace_exporter.config.errors import quote

MAX_PATTERN = 4096
_MAX_COMPILED_BYTES = 1 << 20  # an eighth of RE2's default: every worker holds its patterns compiled


def pattern_problem(pattern: str) -> str | None:
    """Return why the text is no pattern, or None."""
    if len(pattern) > MAX_PATTERN:
        return f"{len(pattern)} characters; expected at most {MAX_PATTERN}"
    try:
        _compile(pattern)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "unknown"
        return f"no regular expression (RE2): {quote(reason)}"
    return None


def named_groups(pattern: str) -> tuple[str, ...]:
    """Return the names of the pattern's groups, in their order; none of what is no pattern."""
    if pattern_problem(pattern) is not None:
        return ()
    index: Mapping[str, int] = _compile(pattern).groupindex
    return tuple(sorted(index, key=lambda name: index[name]))


@lru_cache(maxsize=256)
def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_COMPILED_BYTES
    return re2.compile(pattern, options)
