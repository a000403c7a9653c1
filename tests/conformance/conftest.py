from collections.abc import Iterator

import pytest

from tests.conformance.trials import Trials
from tests.conformance.workshop import Workshop, workshop


@pytest.fixture(scope="session")
def shop() -> Iterator[Workshop]:
    with workshop() as made:
        yield made


@pytest.fixture(scope="session")
def trials(shop: Workshop) -> Trials:
    return Trials(shop)
