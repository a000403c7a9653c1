"""docs/PROTOCOL.md says what the code says."""

import json
import re
from pathlib import Path

import pytest

from agentproxy.protocol.attach_messages import FROM_ATTACHER
from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.frames import FrameReader
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY
from agentproxy.protocol.signer_messages import FROM_SIGNER, TO_SIGNER

PAGE = (Path(__file__).parent.parent.parent / "docs" / "PROTOCOL.md").read_text()
CODECS = {
    "From relay to oracle": FROM_RELAY,
    "From oracle to relay": FROM_ORACLE,
    "In front of a stream over ssh": FROM_ATTACHER,
    "From oracle to signer": TO_SIGNER,
    "From signer to oracle": FROM_SIGNER,
}
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
EXAMPLES = [
    (heading, example)
    for heading in CODECS
    for example in re.findall(r"^```json\n(.*?)^```", SECTIONS[heading], re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize(("heading", "example"), EXAMPLES, ids=lambda text: " ".join(text.split())[:40])
def test_an_example_is_decoded_and_encoded_as_itself(heading: str, example: str) -> None:
    codec = CODECS[heading]
    encoded = codec.encode(codec.decode(example.encode()))
    assert encoded.decode() == json.dumps(json.loads(example), separators=(",", ":"))


@pytest.mark.parametrize("heading", CODECS)
def test_every_message_has_an_example(heading: str) -> None:
    shown = {json.loads(example)["type"] for where, example in EXAMPLES if where == heading}
    assert shown == set(CODECS[heading]._classes)


@pytest.mark.parametrize("code", [*RejectionCode, *RefusalCode, *FailureCode])
def test_every_code_is_named(code: str) -> None:
    assert f"`{code}`" in SECTIONS["From oracle to relay"]


def test_the_frame_on_the_page_is_a_frame() -> None:
    (line,) = re.findall(r"^    ((?:[0-9a-f]{2} +)+[0-9a-f]{2})$", SECTIONS["Frames"], re.MULTILINE)
    reader = FrameReader()
    reader.receive_data(bytes.fromhex(line))
    payload = reader.next_payload()
    assert payload == b'{"type":"drain"}'
    assert reader.is_empty
