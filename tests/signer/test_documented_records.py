"""docs/PROTOCOL.md says which bytes a record has."""

import re
from pathlib import Path

from agentproxy.signer.record import FIRST_PREV, MEMBERS, AuditRecord, hash_of_line
from agentproxy.signer.segment import ChainEnd, follow_chain

PAGE = (Path(__file__).parent.parent.parent / "docs" / "PROTOCOL.md").read_text()
SECTION = PAGE.partition("## The audit record\n")[2]
LINES = re.findall(r"^```jsonl\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)[0].encode().splitlines()


def test_the_lines_on_the_page_are_records() -> None:
    for line in LINES:
        assert AuditRecord.parse(line).line() == line


def test_the_lines_on_the_page_are_a_chain_with_the_hash_on_the_page() -> None:
    end = follow_chain(LINES, ChainEnd(0, FIRST_PREV))
    assert f"sequence {end.sequence} with the hash\n`{hash_of_line(LINES[-1]).hex()}`" in SECTION


def test_every_member_is_in_the_table_in_its_order() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", SECTION, re.MULTILINE)) == MEMBERS
