"""The reference pages have everything that there is, and nothing that there is not."""

import click
import pytest
from pydantic import BaseModel

from ebpf_userspace_exporter.config.decoders import DECODER_SIZES, KERNEL_ONLY
from ebpf_userspace_exporter.config.model import (
    BucketType,
    Config,
    Counter,
    Decoder,
    Gauge,
    Histogram,
    Label,
    Metrics,
    Program,
    ValueType,
)
from ebpf_userspace_exporter.config.names import OWN_METRICS
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.config.setting_parsers import SETTINGS
from ebpf_userspace_exporter.config.target_labels import FIELDS
from ebpf_userspace_exporter.supervisor.cli import cli
from ebpf_userspace_exporter.supervisor.entry import STATES
from ebpf_userspace_exporter.worker.reasons import MISSING, PERMANENT, Reason
from tests.docs.pages import PAGES, ROOT, code_in, headings, table, tables

COMMANDS = cli.commands


def keys(model: type[BaseModel]) -> list[str]:
    """Return a model's keys as people write them."""
    return [field.alias or name for name, field in model.model_fields.items()]


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("The file", Config),
        ("A program", Program),
        ("Which processes: attachment and exclude", Selector),
        ("Labels", Label),
        ("Histograms", Histogram),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_config_page_has_exactly_the_keys_of_the_model(heading: str, model: type[BaseModel]) -> None:
    assert sorted(table("config.md", heading, "key").names()) == sorted(keys(model))


@pytest.mark.parametrize(
    ("number", "model"), [(0, Metrics), (1, Counter), (2, Gauge)], ids=["metrics", "counter", "gauge"]
)
def test_config_page_has_exactly_the_keys_of_metrics(number: int, model: type[BaseModel]) -> None:
    found = [each for each in tables("config.md") if (each.heading, each.columns[0]) == ("Metrics", "key")]

    assert sorted(found[number].names()) == sorted(keys(model))


def test_config_page_tells_the_defaults_of_a_program() -> None:
    shown = {row[0].strip("`"): row[1] for row in table("config.md", "A program", "key").rows}

    assert shown["max_series"] == f"`{Program.model_fields['max_series'].default}`"
    assert shown["max_targets"] == f"`{Program.model_fields['max_targets'].default}`"
    assert {key for key, text in shown.items() if text == "needed"} == {
        key for key, field in Program.model_fields.items() if field.is_required()
    }


def test_config_page_has_exactly_the_fields_of_templates() -> None:
    shown = table("config.md", "What tells targets apart: target_labels", "field").names()

    assert [name.strip("{}") for name in shown] == [*FIELDS, "cmdline.GROUP", "environ.NAME"]


def test_config_page_has_exactly_the_types_of_values_and_buckets() -> None:
    assert table("config.md", "Values", "`value_type`").names() == list(ValueType)
    assert table("config.md", "Histograms", "`bucket_type`").names() == list(BucketType)


def test_decoder_page_has_exactly_the_decoders() -> None:
    assert sorted(first_names("decoders.md", "Decoders", "decoder")) == sorted(DECODER_SIZES)
    assert set(DECODER_SIZES) <= set(headings("decoders.md"))
    assert sorted(table("decoders.md", "What there is not", "kernel decoder").names()) == sorted(KERNEL_ONLY)


def test_decoder_page_tells_the_sizes() -> None:
    for row in table("decoders.md", "Decoders", "decoder").rows:
        [name] = code_in(row[0])
        sizes = DECODER_SIZES[name]
        shown = "any" if sizes is None or len(sizes) > 100 else ", ".join(map(str, sorted(sizes)))
        assert row[1] == shown, name


def test_decoder_page_has_exactly_the_options() -> None:
    shown = [name for each in tables("decoders.md") if each.columns[0] == "option" for name in each.names()]

    assert sorted(shown) == sorted(set(keys(Decoder)) - {"name"})


def test_command_page_has_exactly_the_commands() -> None:
    others = {"Commands", "Running the exporter", "Completion in shells"}

    assert sorted(set(headings("commands.md")) - others) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_command_page_has_exactly_the_flags_of(name: str) -> None:
    assert shown_flags(name) == declared_flags(COMMANDS[name])


def test_command_page_has_exactly_the_flags_of_the_exporter() -> None:
    assert shown_flags("Running the exporter") == declared_flags(cli)


def test_command_page_tells_the_defaults_of_settings() -> None:
    shown = {code_in(row[0])[-1].removeprefix("--"): row[1] for row in flags_table("Running the exporter")}

    for name, setting in SETTINGS.items():
        if setting.default is not None:
            assert shown[name] == f"`{setting.default}`"


def test_metrics_page_has_exactly_the_own_metrics_and_their_kinds() -> None:
    shown = {
        code_in(row[0])[0]: row[2] for each in tables("metrics.md") if each.columns[0] == "metric" for row in each.rows
    }

    assert shown == dict(OWN_METRICS)


def test_metrics_page_has_exactly_the_states() -> None:
    assert sorted(table("metrics.md", "States", "state").names()) == sorted(map(str, STATES))


def test_metrics_page_has_exactly_the_reasons_and_what_follows_from_them() -> None:
    shown = {code_in(row[0])[0]: row[1] for row in table("metrics.md", "Reasons", "reason").rows}

    assert shown == {
        str(reason): "for good" if reason in PERMANENT else "waits" if reason in MISSING else "" for reason in Reason
    }


def test_readme_links_every_page() -> None:
    readme = (ROOT / "README.md").read_text()

    assert [page.name for page in PAGES if f"(docs/{page.name})" not in readme] == []


def first_names(page: str, heading: str, column: str) -> list[str]:
    return [code_in(row[0])[0] for row in table(page, heading, column).rows]


def flags_table(heading: str) -> list[tuple[str, ...]]:
    return [row for each in tables("commands.md") if each.heading == heading for row in each.rows if row[0][:2] == "`-"]


def shown_flags(heading: str) -> list[str]:
    return sorted(name for row in flags_table(heading) for name in code_in(row[0]) if name.startswith("-"))


def declared_flags(command: click.Command) -> list[str]:
    """Return the flags of a command without `--help`, which all have."""
    return sorted(name for each in command.params if isinstance(each, click.Option) for name in each.opts)
