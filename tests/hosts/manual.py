"""The commands of docs/INSTALL.md: blocks whose first line says on which machine they are run, and as whom."""

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Step", "steps"]

_PAGE = Path(__file__).parents[2] / "docs" / "INSTALL.md"
_BLOCK = re.compile(r"^```sh\n# on the (oracle's host|build server), as (\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """One block."""

    machine: str
    user: str
    commands: str


def steps() -> list[Step]:
    """All blocks that can be run here, in the page's order."""
    found = [Step(*block) for block in _BLOCK.findall(_PAGE.read_text())]
    assert [step.user for step in found] == ["root", "root", "root", "builder"], "the page has changed: look at this"
    return found
