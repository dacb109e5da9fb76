"""Every example that ships is accepted, without a warning."""

from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.load import load_config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/config.yaml")), ids=lambda path: path.parent.name)
def test_example_is_accepted_without_a_warning(path: Path) -> None:
    loaded = load_config(path, trusted=False)

    assert loaded.config.programs
    assert loaded.warnings == ()


def test_malloc_example_has_the_33_buckets_of_its_map() -> None:
    (program,) = load_config(EXAMPLES / "redis/config.yaml", trusted=False).config.programs
    (histogram,) = program.metrics.histograms

    assert (histogram.bucket_min, histogram.bucket_max) == (0, 31)
    assert f"#define LAST_SLOT {histogram.bucket_max}" in program.code
