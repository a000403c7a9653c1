from collections.abc import Iterator

import pytest

from tests.end_to_end.offline import Offline, offline_machine
from tests.end_to_end.place import System, system_with


@pytest.fixture(scope="session")
def offline() -> Iterator[Offline]:
    """The offline machine with the keys that most tests want: modern (Ed25519, and one to encrypt to) and legacy."""
    with offline_machine() as machine:
        machine.make("modern", "rsa2048", "encr")
        machine.make("legacy", "rsa2048")
        yield machine


@pytest.fixture(name="made", scope="module")
def made_system(offline: Offline) -> Iterator[System]:
    with system_with({name: offline.exports[name] for name in ("modern", "legacy")}) as system:
        yield system


@pytest.fixture
def system(made: System) -> System:
    """A dev system that the tests of a module share; whatever one of them stopped runs again."""
    made.start()
    return made
