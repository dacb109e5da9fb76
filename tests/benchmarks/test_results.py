"""What benchmarks print is kept, each beside the others, and can be read again."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The root is not on sys.path: it has a folder `config`.
results = runpy.run_path(str(ROOT / "benchmarks/results.py"))
keep, question, table = results["keep"], results["question"], results["table"]
print_table = runpy.run_path(str(ROOT / "benchmarks/readings.py"))["print_table"]


def printed(capsys: pytest.CaptureFixture[str], rows: list[list[str]]) -> str:
    print_table("Some title", ["series", "µs"], rows)
    return capsys.readouterr().out + "one thing: met;\n    1.50 another, goal at most 1: missed\n"


def test_a_section_is_replaced_when_its_benchmark_has_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "RESULTS.md"
    keep("scrape", printed(capsys, [["1", "0.5"]]), file)
    keep("idle", "conditions\n", file)
    first = file.read_text()
    keep("idle", "other conditions\n", file)

    assert file.read_text() == first.replace("conditions", "other conditions")
    assert [line for line in first.splitlines() if line.startswith("#")] == ["# Results", "## idle", "## scrape"]
    assert question("idle") in first


def test_lines_that_are_no_table_become_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "RESULTS.md"

    keep("scrape", printed(capsys, [["1", "0.5"]]), file)

    assert file.read_text().endswith(
        "Some title\n\n| series |  µs |\n| ------ | --: |\n| 1      | 0.5 |\n\n"
        "- one thing: met;\n- 1.50 another, goal at most 1: missed\n"
    )


def test_a_table_is_read_as_it_was_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "RESULTS.md"
    keep("scrape", printed(capsys, [["1", "0.5"], ["100000", "-"]]), file)

    assert table("scrape", "series", file) == [{"series": "1", "µs": "0.5"}, {"series": "100000", "µs": "-"}]
    assert table("scrape", "targets", file) == table("idle", "series", file) == []
