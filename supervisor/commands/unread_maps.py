"""Maps that are filled for nobody: no metric reads them, and nor does the code."""

import re
from collections.abc import Iterable, Iterator

from ebpf_userspace_exporter.config.model import Program

# What only writes. An atomic increment looks the row up too, but nobody learns what was in it.
_WRITES = (
    r"(increment|atomic_increment|insert|update|delete|push|perf_submit|perf_submit_skb|ringbuf_output|get_stackid)"
)
_COMMENT_OR_TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def unread_maps(program: Program, maps: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each of the maps that is read nowhere; where the code is not clear, it is taken to read."""
    tables = {metric.table for metric in program.metrics.all}
    stacks = {
        decoder.stack_table for metric in program.metrics.all for label in metric.labels for decoder in label.decoders
    }
    code = _COMMENT_OR_TEXT.sub(" ", program.code)
    for name in maps:
        if name not in tables | stacks and not _is_read(name, code):
            yield f"warning: map {name}: no metric reads it, nor does the code"


def _is_read(name: str, code: str) -> bool:
    if not re.search(rf"\b{name}\b", code):
        return True  # the builder's own, or a macro's
    declared = rf"\bBPF_\w+\s*\([^;]*?\b{name}\b"
    others = re.sub(declared, " ", code, count=1)
    return re.search(rf"\b{name}\b(?!\s*\.\s*{_WRITES}\s*\()", others) is not None
