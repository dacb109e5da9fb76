"""Every example that ships is accepted without a warning, is written about, and has a picture of what it shows."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ebpf_userspace_exporter.config.load import load_config
from ebpf_userspace_exporter.config.model import Config, Counter, Gauge, Histogram
from tests.product.exporter import EXAMPLES, PREFIX

FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__")
LARGEST_PICTURE_BYTES = 30_000


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def config_in(folder: Path) -> Config:
    return load_config(folder / "config.yaml", trusted=False).config


def metrics_in(folder: Path) -> list[Counter | Gauge | Histogram]:
    metrics: list[Counter | Gauge | Histogram] = []
    for program in config_in(folder).programs:
        metrics += [*program.metrics.counters, *program.metrics.gauges, *program.metrics.histograms]
    return metrics


def test_an_examples_folder_is_named_as_one_types_it(folder: Path) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", folder.name)


def test_a_config_is_accepted_without_a_warning(folder: Path) -> None:
    loaded = load_config(folder / "config.yaml", trusted=False)

    assert loaded.config.programs
    assert loaded.warnings == ()


def test_metrics_have_a_help_and_names_that_prometheus_likes(folder: Path) -> None:
    for metric in metrics_in(folder):
        assert metric.help, metric.name
        assert not re.search(r"_(nano|micro|milli)seconds", metric.name)
        assert metric.name.endswith("_total") == isinstance(metric, Counter)


def test_the_readme_names_every_metric_and_shows_an_excerpt_and_the_picture(folder: Path) -> None:
    readme = (folder / "README.md").read_text()
    names = [metric.name for metric in metrics_in(folder)]

    assert [name for name in names if name not in readme] == []
    assert any(re.search(rf"^ *{PREFIX}{name}\S*{{.*}} \S+$", readme, re.MULTILINE) for name in names)
    assert "](graph.svg)" in readme
    assert f"examples/{folder.name}/config.yaml" in readme


def test_the_picture_is_small_and_has_text_in_it_but_no_date(folder: Path) -> None:
    picture = (folder / "graph.svg").read_bytes()

    assert len(picture) <= LARGEST_PICTURE_BYTES
    assert list(ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text"))  # noqa: S314 - our own file
    assert b"<dc:date>" not in picture


def test_an_example_is_run_for_real_in_a_test_of_its_name(folder: Path) -> None:
    test = Path(__file__).with_name(f"test_{folder.name.replace('-', '_')}.py")

    assert "pytest.mark.bpf" in test.read_text()
