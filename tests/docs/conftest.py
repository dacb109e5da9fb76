from collections.abc import Iterator

import pytest

from tests.docs.pages import blocks
from tests.docs.scene import Scene, scene


@pytest.fixture(scope="module")
def here() -> Iterator[Scene]:
    """Have everything run that the pages show commands about."""
    with scene({block.name: block.text for block in blocks() if block.kind == "file"}) as running:
        yield running
