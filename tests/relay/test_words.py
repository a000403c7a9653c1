"""docs/RUNNERS.md explains whatever gpg may show because of us."""

import re
from pathlib import Path

from agentproxy.protocol.gpgerror import GpgError
from relay import signing

PAGE = Path(__file__).parents[2] / "docs" / "RUNNERS.md"


def test_every_word_that_a_signature_may_end_with_is_explained_to_its_reader() -> None:
    explained = {
        word for row in re.findall(r"^\| ([^|]+) \|", PAGE.read_text(), re.MULTILINE) for word in row.split(", ")
    }
    told = {*signing._REFUSALS.values(), *signing._FAILURES.values()}
    told |= {GpgError.NETWORK, GpgError.TIMEOUT, GpgError.CANCELED, GpgError.INV_LENGTH, GpgError.NO_AGENT}
    assert {error.text for error in told} - explained == set()
