"""What clang says of the code is said of the config's file, but for what is about other code than is written there."""

import pytest

from ebpf_userspace_exporter.config.code_places import CodePlace
from ebpf_userspace_exporter.supervisor.commands.code_words import in_file

CODE = "int on_gc(void *ctx) {\n\treturn nothing;\n}\n"
ERROR = "code:2:9: error: use of undeclared identifier 'nothing'"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (f"{ERROR}\n        return nothing;\n               ^\n1 error", "gc.yaml:11:15: error: use"),
        (f"{ERROR}\n    2 |         return nothing;\n      |                ^~~~~~~", "gc.yaml:11:15: error: use"),
        (f"{ERROR}\n    2 | return bpf_map_lookup();\n      |        ^~~~~~~", "code:2:9: error: use"),
        (f"{ERROR}\n return bpf_map_lookup();\n       ^\ncode:2:9: note: here", "code:2:9: error: use"),
        ("code:3: warning: on_gc: bpf_usdt_readarg(1, …) reads nothing", "gc.yaml:12: warning: on_gc"),
        ("code:2:9: warning: unused", "gc.yaml:11:15: warning: unused"),
        ("code:99:1: error: beyond\n\n^", "code:99:1: error: beyond"),
        ("bytecode:2:9: error", "bytecode:2:9: error"),
        ("", ""),
    ],
    ids=["as written", "with a gutter", "rewritten", "note on it", "line", "alone", "beyond", "other", "nothing"],
)
def test_a_place_in_the_code_is_one_in_the_file_where_the_code_is_as_written(words: str, shown: str) -> None:
    written = in_file(words, CODE, "gc.yaml", CodePlace(first_line=10, indent=6))

    assert written.startswith(shown)
    assert written.split("\n")[1:] == words.split("\n")[1:]
