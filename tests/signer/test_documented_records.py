"""docs/PROTOCOL.md says which bytes a record has."""

import re
from pathlib import Path

from agentproxy.signer.checkpoint import Checkpoint
from agentproxy.signer.checkpointfile import CHECKPOINT_RECORDS, CHECKPOINT_SECONDS
from agentproxy.signer.logkey import read_public_key
from agentproxy.signer.record import FIRST_PREV, MEMBERS, AuditRecord, hash_of_line
from agentproxy.signer.segment import ChainEnd, follow_chain

PAGE = (Path(__file__).parent.parent.parent / "docs" / "PROTOCOL.md").read_text()
SECTION = PAGE.partition("## The audit record\n")[2]
KINDS = ("jsonl", "text", "pem")
LINES = re.findall(r"^```jsonl\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)[0].encode().splitlines()


def test_the_lines_on_the_page_are_records() -> None:
    for line in LINES:
        assert AuditRecord.parse(line).line() == line


def test_the_lines_on_the_page_are_a_chain_with_the_hash_on_the_page() -> None:
    end = follow_chain(LINES, ChainEnd(0, FIRST_PREV))
    assert f"sequence {end.sequence} with the hash\n`{hash_of_line(LINES[-1]).hex()}`" in SECTION


def test_every_member_is_in_the_table_in_its_order() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", SECTION, re.MULTILINE)) == MEMBERS


def test_the_checkpoint_on_the_page_is_signed_by_the_key_on_the_page(tmp_path: Path) -> None:
    section = PAGE.partition("## Checkpoints of the audit log\n")[2]
    shown = {kind: re.findall(rf"^```{kind}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[0] for kind in KINDS}
    (tmp_path / "pem").write_text(shown["pem"])
    key = read_public_key(tmp_path / "pem")
    line = shown["jsonl"].encode().rstrip(b"\n")
    checkpoint = Checkpoint.parse(line)
    assert checkpoint.line() == line
    assert checkpoint.is_signed_by(key)
    assert checkpoint.key == key.id
    assert (checkpoint.head.sequence, checkpoint.head.hash) == (3, hash_of_line(LINES[-1]))
    key.key.verify(checkpoint.signature, shown["text"].encode())


def test_the_page_says_when_a_checkpoint_is_due() -> None:
    section = PAGE.partition("## Checkpoints of the audit log\n")[2]
    assert f"After {CHECKPOINT_RECORDS} records, or {CHECKPOINT_SECONDS:.0f} seconds" in section
