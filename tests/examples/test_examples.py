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
