"""docs/CONFORMANCE.md says what a run shows."""

from pathlib import Path

import pytest

from tests.conformance.document import document, without_patch_levels
from tests.conformance.trials import Trials

pytestmark = pytest.mark.conformance

ROOT = Path(__file__).parents[2]


def test_the_page_says_what_this_run_shows(trials: Trials) -> None:
    page, fresh = ROOT / "docs" / "CONFORMANCE.md", ROOT / ".cache" / "CONFORMANCE.md"
    fresh.write_text(document(trials))
    assert page.exists(), f"look at {fresh} and copy it to {page}"
    assert without_patch_levels(page.read_text()) == without_patch_levels(fresh.read_text()), (
        f"stale: look at {fresh} and copy it to {page}"
    )
