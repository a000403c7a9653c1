"""Plain values become our types and back, or a bug of ours is told as one."""

import enum
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.keys import Curve, EccPublicKey, Fingerprint, Keygrip, PublicKey, RsaPublicKey
from agentproxy.protocol.structure import Reader, structured
from agentproxy.protocol.unstructure import Writer, unstructured, unstructured_fields
from agentproxy.protocol.wire import MessageCodec


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Shape(enum.Enum):
    ROUND = "round"


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.name == "wrong":
            raise ValueError("no part has this name")


@dataclass(frozen=True, slots=True)
class Whole:
    flag: bool
    share: float
    octets: bytes
    colour: Colour
    shape: Shape
    algorithm: HashAlgorithm
    keygrip: Keygrip
    moment: datetime
    key: PublicKey
    owner: str | int
    fingerprint: Fingerprint | None = None
    part: Part = field(default_factory=lambda: Part("usual"))
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = field(default_factory=dict)
    made: int = field(default=7, init=False)


PARTS = st.builds(Part, st.text().filter(lambda name: name != "wrong"), st.lists(st.integers()).map(tuple))
WHOLES = st.builds(
    Whole,
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(),
    st.sampled_from(Colour),
    st.sampled_from(Shape),
    st.sampled_from(HashAlgorithm),
    st.binary(min_size=20, max_size=20).map(Keygrip),
    st.datetimes(timezones=st.just(UTC), min_value=datetime(1, 1, 1)),  # noqa: DTZ001  hypothesis wants it so
    st.sampled_from([RsaPublicKey(b"\x81" * 256, b"\3"), EccPublicKey(Curve.ED25519, bytes(32))]),
    st.one_of(st.text(), st.integers()),
    st.none() | st.binary(min_size=20, max_size=20).map(Fingerprint),
    PARTS,
    st.lists(PARTS).map(tuple),
    st.dictionaries(st.text(), PARTS),
)


@given(WHOLES)
def test_what_is_written_is_read_as_the_same_through_json(whole: Whole) -> None:
    assert structured(json.loads(json.dumps(unstructured(whole))), Whole) == whole


def test_a_field_at_its_default_is_not_written_and_one_that_nobody_sets_neither() -> None:
    key = EccPublicKey(Curve.ED25519, bytes(32))
    plain = unstructured_fields(
        Whole(
            flag=False, share=0.0, octets=b"", colour=Colour.RED, shape=Shape.ROUND, algorithm=HashAlgorithm.SHA256,
            keygrip=Keygrip(bytes(20)), moment=datetime(2026, 11, 22, 10, tzinfo=UTC), key=key, owner=0,
        )
    )  # fmt: skip
    assert plain == {
        "flag": False, "share": 0.0, "octets": "", "colour": "red", "shape": "round", "algorithm": 8,
        "keygrip": "00" * 20, "moment": "2026-11-22T10:00:00.000000Z", "owner": 0,
        "key": {"algorithm": "ecc", "curve": "Ed25519", "q": "00" * 32},
    }  # fmt: skip
    assert type(plain["colour"]) is str
    assert type(plain["algorithm"]) is int


@pytest.mark.parametrize(
    ("wanted", "value", "words"),
    [
        (str, 5, "expected a string, got int"),
        (str, None, "expected a string, got NoneType"),
        (int, True, "expected an integer, got bool"),
        (int, 5.0, "expected an integer, got float"),
        (bool, 1, "expected true or false, got int"),
        (float, True, "expected a number, got bool"),
        (float, "1", "expected a number, got str"),
        (float, float("nan"), "expected a finite number"),
        (float, 10**400, "expected a finite number"),
        (bytes, "AB", "expected lower-case hex"),
        (bytes, "ab cd", "expected lower-case hex"),
        (bytes, "abc", "expected lower-case hex"),
        (bytes, "ä", "expected lower-case hex"),
        (bytes, [], "expected a string, got list"),
        (str | int, True, "expected a name or a number, got bool"),
        (str | int, None, "expected a name or a number, got NoneType"),
        (Colour, "green", "expected one of red, blue, got 'green'"),
        (Colour, "x" * 1000, f"expected one of red, blue, got '{'x' * 64}'"),
        (Colour, 5, "expected a string, got int"),
        (Shape, "square", "expected one of round, got 'square'"),
        (HashAlgorithm, 4, "unknown hash algorithm 4"),
        (HashAlgorithm, "8", "expected an integer, got str"),
        (HashAlgorithm, True, "expected an integer, got bool"),
        (tuple[int, ...], "12", "expected a list, got str"),
        (tuple[int, ...], {"1": 2}, "expected a list, got dict"),
        (tuple[int, ...], [1, "2"], "expected an integer, got str"),
        (dict[str, int], [["a", 1]], "expected an object, got list"),
        (dict[str, int], {1: 1}, "expected a string, got int"),
        (dict[str, int], {"a": "1"}, "expected an integer, got str"),
        (Part, [], "expected an object, got list"),
        (Part, {}, "the field 'name' is missing"),
        (Part, {"numbers": []}, "the field 'name' is missing"),
        (Part, {"name": "n", "z": 1, "a": 1}, "unknown field 'a'"),
        (Part, {"name": "n", "x" * 1000: 1}, f"unknown field '{'x' * 64}'"),
        (Part, {"name": "n", "numbers": None}, "expected a list, got NoneType"),
        (Part | None, 5, "expected an object, got int"),
        (PublicKey, None, "expected an object with 'algorithm'"),
        (PublicKey, {}, "algorithm: expected one of dsa, ecc, rsa"),
        (PublicKey, {"algorithm": ["rsa"]}, "algorithm: expected one of dsa, ecc, rsa"),
        (PublicKey, {"algorithm": "rsa", "n": "81"}, "the field 'e' is missing"),
        (RsaPublicKey, {"algorithm": "rsa", "n": "81", "e": "03"}, "unknown field 'algorithm'"),
    ],
)
def test_another_value_is_refused(wanted: type[object], value: object, words: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        structured(value, wanted)
    assert str(caught.value) == words


def test_nobody_chooses_what_a_class_sets_by_itself() -> None:
    @dataclass
    class Counted:
        count: int = field(default=0, init=False)

    assert structured({}, Counted) == Counted()
    with pytest.raises(RemoteProtocolError, match="unknown field 'count'"):
        structured({"count": 1}, Counted)


def test_reading_changes_nothing_of_what_was_read() -> None:
    plain = {"algorithm": "rsa", "n": "81" * 256, "e": "03"}
    before = dict(plain)
    assert structured(plain, PublicKey) == structured(plain, PublicKey)
    assert plain == before


def test_what_a_class_itself_refuses_is_told_in_its_words() -> None:
    with pytest.raises(ValueError, match="no part has this name"):
        structured({"name": "wrong"}, Part)


@pytest.mark.parametrize("wanted", [object, Decimal, list[str], tuple[int, int], int | None | str, set[int], Level])
def test_a_type_that_no_value_becomes_is_a_bug(wanted: type[object]) -> None:
    with pytest.raises(NotImplementedError, match="nothing is read as"):
        structured("1", wanted)


def test_a_message_that_we_cannot_read_is_our_bug_and_not_its_sender_s() -> None:
    @dataclass(frozen=True)
    class Unheard:
        tag: ClassVar[str] = "unheard"
        price: Decimal

    with pytest.raises(NotImplementedError, match="Decimal"):
        MessageCodec(Unheard).decode(b'{"type":"unheard","price":"1"}')


@pytest.mark.parametrize("value", [Decimal(1), {1}, object(), [Decimal(1)], {"a": b"".__iter__()}])
def test_a_value_of_no_known_type_is_a_bug(value: object) -> None:
    with pytest.raises(NotImplementedError, match="is written"):
        unstructured(value)


def test_a_reader_and_a_writer_of_their_own_say_how_a_type_stands_there() -> None:
    reader = Reader({Decimal: lambda value: Decimal(structured(value, str))})
    writer = Writer({Decimal: str})
    assert reader.read(["1.5"], tuple[Decimal, ...]) == (Decimal("1.5"),)
    assert writer.write((Decimal("1.5"),)) == ["1.5"]
    with pytest.raises(NotImplementedError):
        structured(["1.5"], tuple[Decimal, ...])
    with pytest.raises(NotImplementedError):
        unstructured((Decimal("1.5"),))
