"""States of hashes: they go on where another hash stopped, and only those that can be are taken."""

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.hashstates import MAX_LENGTH, HashState
from agentproxy.protocol.sha2 import FUNCTIONS

ALGORITHMS = st.sampled_from([HashAlgorithm.SHA256, HashAlgorithm.SHA512])
SHA256, SHA512 = FUNCTIONS[HashAlgorithm.SHA256].initial.hex(), FUNCTIONS[HashAlgorithm.SHA512].initial.hex()
DOCUMENTS = Path(__file__).parent.parent.parent / "docs"


@given(ALGORITHMS, st.lists(st.binary(max_size=300), max_size=4), st.binary(max_size=300))
@example(HashAlgorithm.SHA256, [b"x" * 55], b"")  # the padding just fits
@example(HashAlgorithm.SHA256, [b"x" * 56], b"")
@example(HashAlgorithm.SHA256, [b"x" * 64], b"")
@example(HashAlgorithm.SHA512, [b"x" * 111], b"")
@example(HashAlgorithm.SHA512, [b"x" * 112], b"")
@example(HashAlgorithm.SHA512, [b"x" * 128], b"")
def test_a_state_goes_on_to_the_digest_of_the_whole(
    algorithm: HashAlgorithm, parts: list[bytes], trailer: bytes
) -> None:
    state = HashState.initial(algorithm)
    for part in parts:
        state = HashState.parse(str(state)).updated(part)
    content = b"".join(parts)
    assert state.length == len(content)
    assert state.finished(trailer).value == hashlib.new(algorithm.name, content + trailer).digest()


@given(ALGORITHMS, st.binary(max_size=300))
def test_every_state_reads_as_it_was_written(algorithm: HashAlgorithm, content: bytes) -> None:
    state = HashState.initial(algorithm).updated(content)
    assert HashState.parse(str(state)) == state


GOOD = f"sha256-state:{'ab' * 32}:65:78"
WRONG = [
    "",
    GOOD + "\n",
    GOOD + " ",
    GOOD + ":",
    " " + GOOD,
    GOOD.upper(),
    GOOD.replace("ab", "AB"),
    GOOD.replace("-state", ""),
    GOOD.replace("sha256", "sha-256"),
    GOOD.replace("sha256", "sha384"),
    GOOD.replace("sha256", "sha224"),
    GOOD.replace("sha256", "sha1"),
    GOOD.replace("sha256", "md5"),
    GOOD.replace("sha256", "sha512"),  # a chaining value of half the length
    GOOD.replace("ab" * 32, "ab" * 31),
    GOOD.replace("ab" * 32, "ab" * 33),
    GOOD.replace("ab" * 32, "ab" * 31 + "a"),
    GOOD.replace("ab" * 32, ""),
    GOOD.replace(":65:", ":065:"),
    GOOD.replace(":65:", ":+65:"),
    GOOD.replace(":65:", ":6_5:"),
    GOOD.replace(":65:", ":-63:"),
    GOOD.replace(":65:", ":65.0:"),
    GOOD.replace(":65:", ":٦٥:"),
    GOOD.replace(":65:", "::"),
    GOOD.replace(":65:", ":64:"),  # a byte in no block that should be empty
    GOOD.replace(":65:", ":66:"),
    GOOD.replace(":78", ":"),
    GOOD.replace(":78", ":7"),
    GOOD.replace(":78", ":787"),
    GOOD.replace(":78", ":7 8"),
    f"sha256-state:{'ab' * 32}:1:78",  # not the standard's initial value before the first block
    f"sha256-state:{'ab' * 32}:0:",
    f"sha256-state:{SHA512[:64]}:0:",
    f"sha512-state:{'ab' * 64}:127:{'78' * 127}",
    f"sha256-state:{'ab' * 32}:{MAX_LENGTH + 64}:",
    f"sha256-state:{'ab' * 32}:{2**61}:",  # SHA-256 cannot count its bits
    f"sha512-state:{'ab' * 64}:{2**64}:",
    f"sha256-state:{'ab' * 32}:{'9' * 5000}:",
    f"sha256-state:{SHA256}:64:{'78' * 64}",  # a whole block that nobody hashed
    "sha256:" + "ab" * 32,
]


@pytest.mark.parametrize("text", WRONG)
def test_a_state_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        HashState.parse(text)


@pytest.mark.parametrize("algorithm", [*HashAlgorithm])
def test_only_sha256_and_sha512_have_states(algorithm: HashAlgorithm) -> None:
    if algorithm in FUNCTIONS:
        assert HashState(algorithm, FUNCTIONS[algorithm].initial, 0, b"").length == 0
        return
    with pytest.raises(RemoteProtocolError, match=r"SHA-256 or SHA-512"):
        HashState(algorithm, bytes(algorithm.digest_size), 0, b"")


def test_the_longest_content_still_has_room_for_what_is_appended() -> None:
    state = HashState(HashAlgorithm.SHA256, bytes(32), MAX_LENGTH, b"")
    assert len(state.finished(bytes(65_536)).value) == 32


TEXTS = (b"hello\n", b"0123456789\n" * 10, b"<repomd/>\n")


@pytest.mark.parametrize("page", ["PROTOCOL.md", "HTTP-API.md"])
def test_the_documents_show_the_states_of_the_texts_that_they_name(page: str) -> None:
    shown = re.findall(r"sha(?:256|512)-state:[0-9a-f]+:\d+:[0-9a-f]*", (DOCUMENTS / page).read_text())
    states = [HashState.initial(algorithm).updated(text) for algorithm in FUNCTIONS for text in TEXTS]
    assert shown
    assert set(shown) <= {str(state) for state in states}
