"""Values picked by pattern."""

from collections.abc import Sequence

import re2

from ebpf_userspace_exporter.worker.decoders.errors import RowSkipped
from ebpf_userspace_exporter.worker.decoders.text import as_text

MAX_SUBJECT_CHARACTERS = 4096


class Regexp:
    """Tries patterns in their order; the syntax is RE2's, which is also Go's, in linear time on any value."""

    def __init__(self, patterns: Sequence[str]) -> None:
        # The same options as in the config's check: what is compiled there is then in re2's cache here, after the fork.
        options = re2.Options()
        options.log_errors = False
        self._patterns = [re2.compile(pattern, options) for pattern in patterns]

    def __call__(self, raw: bytes) -> str:
        """Return what the first matching pattern picks, from at most 4 Ki characters; RowSkipped if none matches.

        A pattern with exactly one group picks that group, any other the whole value. Patterns match anywhere
        unless they are anchored.
        """
        text = as_text(raw)[:MAX_SUBJECT_CHARACTERS]
        for pattern in self._patterns:
            match = pattern.search(text)
            if match is not None:
                return (match.group(1) or "") if pattern.groups == 1 else text
        raise RowSkipped
