"""What is made once for all tests of containers."""

from collections.abc import Iterator

import pytest

from tests.deploy import containers


@pytest.fixture(scope="session")
def engine() -> Iterator[containers.Engine]:
    with containers.engine() as made:
        yield made
