"""What the tables of the reference pages show by example is so."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ebpf_userspace_exporter.config.load import load_config
from ebpf_userspace_exporter.config.names import OWN_METRICS, PREFIX, claimed_names
from ebpf_userspace_exporter.worker.decoders import label_decoder
from ebpf_userspace_exporter.worker.decoders.surroundings import Surroundings
from tests.docs.fragments import complete, complete_counter
from tests.docs.pages import Table, code_in, table, tables
from tests.docs.scene import Scene

SELECTORS = table("config.md", "Which processes: attachment and exclude", "key")
DECODED = table("decoders.md", "Decoders", "decoders")


class NoSymbols:
    def name(self, address: int) -> str:
        raise LookupError(address)


def no_stack(table: str, stack_id: int) -> tuple[int, ...]:
    raise KeyError(table, stack_id)


def rows(shown: Table) -> list[Any]:
    return [pytest.param(row, id=row[0]) for row in shown.rows]


@pytest.mark.parametrize("row", rows(SELECTORS))
def test_a_selector_is_accepted_and_has_the_key_that_it_is_the_example_of(row: tuple[str, ...], tmp_path: Path) -> None:
    [example] = code_in(row[-1])
    attachment = yaml.safe_load(example)
    (tmp_path / "programs.yaml").write_text(yaml.safe_dump(complete(attachment=attachment)))

    assert list(attachment) == code_in(row[0])
    assert load_config(tmp_path / "programs.yaml", trusted=False).warnings == ()


@pytest.mark.parametrize("row", rows(DECODED))
def test_bytes_decode_to_the_label_shown(row: tuple[str, ...], tmp_path: Path) -> None:
    decoders, [digits], [text] = map(code_in, row)
    raw = bytes.fromhex(digits)
    steps = ", ".join(step if step.startswith("{") else f"{{name: {step}}}" for step in decoders)
    config = yaml.safe_dump(complete_counter(labels="LABELS"))
    labels = f"[{{name: shown, size: {len(raw)}, decoders: [{steps}]}}]"
    (tmp_path / "programs.yaml").write_text(config.replace("LABELS", labels))
    [program] = load_config(tmp_path / "programs.yaml", trusted=False).config.programs
    [label] = program.metrics.counters[0].labels

    assert label_decoder(label, Surroundings(1, NoSymbols(), no_stack))(raw) == text


@pytest.mark.bpf
def test_own_metrics_have_the_labels_shown(here: Scene) -> None:
    shown = {
        code_in(row[0])[0]: set(code_in(row[1]))
        for each in tables("metrics.md")
        if each.columns[0] == "metric"
        for row in each.rows
    }
    own = {PREFIX + claim: name for name, kind in OWN_METRICS.items() for claim in claimed_names(name, kind)}
    samples = [(name, {key for key, _ in labels}) for name, labels in here.exporter.scrape() if name.startswith(PREFIX)]

    found = {own[name]: labels - {"le"} for name, labels in samples if name in own}

    assert {name for name, _ in samples} - own.keys() == {f"{PREFIX}gc_total"}
    assert found == {name: shown[name] for name in found}
    assert len(found) > 15
