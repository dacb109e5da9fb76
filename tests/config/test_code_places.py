"""A line of code is found in the file again where the file has it as it is."""

from collections.abc import Callable

import pytest

from ebpf_userspace_exporter.config.code_places import CodePlace
from ebpf_userspace_exporter.config.load import Loaded

PROGRAM = """\
programs:
  - name: gc
    usdt: {gc__start: on_gc}
    attachment: {binary_name: gunicorn}
"""


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("    code: |\n      int a;\n      int b;\n", CodePlace(6, 6)),
        ("    code: |  # C\n\n          int a;\n\n      \n          int b;\n", CodePlace(6, 10)),
        ("    code: |2-\n        int a;\n      int b;", CodePlace(6, 6)),
        ("    code: &it |+\n     int a;\n\n\n    cflags: [-DX]\n", CodePlace(6, 5)),
        ("    # |\n    code: |\n      int a;\n", CodePlace(7, 6)),
        ("    cflags: ['a\n      b']\n    code: |\n     int a;\n", CodePlace(8, 5)),
        ("    code: |\r\n      int a;\r\n\r\n      int b;\r\n", CodePlace(6, 6)),
        ("    code: int a;\n", None),
        ('    code: "int a;\\nint b;"\n', None),
        ("    code: >\n      int a;\n      int b;\n", None),
        ("    code:\n      |\n      int a;\n", None),
        ("    cflags: [&it 'int a;']\n    code: *it\n", None),
    ],
    ids=[
        *("block", "blank lines", "own indentation", "anchor", "comment", "after more lines", "carriage returns"),
        *("plain", "quotes", "folded", "style on its own line", "alias"),
    ],
)
def test_code_is_found_where_it_stands_line_by_line(
    code: str, place: CodePlace | None, load: Callable[[str], Loaded]
) -> None:
    loaded = load(PROGRAM + code)

    assert loaded.code_places == ({} if place is None else {"gc": place})


def test_each_program_has_its_own_place(load: Callable[[str], Loaded], counter_yaml: str) -> None:
    second = counter_yaml.partition("\n")[2].replace("gc_total", "other_total")

    first_line = counter_yaml.splitlines().index("    code: |") + 2
    assert load(counter_yaml + second).code_places == {
        "gc_total": CodePlace(first_line, 6),
        "other_total": CodePlace(first_line + len(counter_yaml.splitlines()) - 1, 6),
    }
