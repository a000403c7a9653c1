"""Classes of values behave as the standard library's frozen dataclasses do."""

from dataclasses import asdict, dataclass, field, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.protocol.values import frozen


@dataclass(frozen=True, slots=True)
class Theirs:
    """What it is measured against."""

    number: int
    text: str = "none"
    secret: bytes = field(default=b"", repr=False)
    seen: int = field(default=0, compare=False)


@frozen
class Ours:
    """The same."""

    number: int
    text: str = "none"
    secret: bytes = field(default=b"", repr=False)
    seen: int = field(default=0, compare=False)


@frozen
class Lonely:
    """One field."""

    number: int


@frozen
class Other:
    """One field of the same name."""

    number: int


@frozen
class Empty:
    """None."""


@frozen
class ByName:
    """With an equality of its own."""

    name: str
    place: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByName) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return self.name


Arguments = tuple[int, str, bytes, int]
arguments = st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.sampled_from([b"", b"x"]), st.integers(0, 1))


@given(one=arguments, other=arguments)
def test_values_are_equal_hashed_and_shown_as_those_of_a_frozen_dataclass(one: Arguments, other: Arguments) -> None:
    ours, theirs = (Ours(*one), Ours(*other)), (Theirs(*one), Theirs(*other))
    assert (ours[0] == ours[1]) == (theirs[0] == theirs[1])
    assert len(set(ours)) == len(set(theirs))
    assert repr(ours[0]) == repr(theirs[0]).replace("Theirs", "Ours")
    assert asdict(ours[0]) == asdict(theirs[0])


def test_what_no_repr_shall_show_is_not_in_it() -> None:
    assert "hunter2" not in repr(Ours(1, secret=b"hunter2"))


def test_values_of_different_classes_are_never_equal() -> None:
    assert Lonely(1) == Lonely(1)
    assert Lonely(1) != Other(1)
    assert Lonely(1) != 1
    assert Empty() == Empty()
    assert len({Empty(), Empty(), Lonely(1), Lonely(1), Other(1)}) == 3
    assert repr(Empty()) == "Empty()"


def test_methods_that_a_class_has_are_left_to_it() -> None:
    assert ByName("a", "here") == ByName("a", "there")
    assert len({ByName("a", "here"), ByName("a", "there")}) == 1
    assert repr(ByName("a", "here")) == "a"


def test_they_are_dataclasses_with_slots() -> None:
    value = Ours(1)
    assert [each.name for each in fields(value)] == ["number", "text", "secret", "seen"]
    assert replace(value, number=2) == Ours(2)
    with pytest.raises(AttributeError):
        value.unknown = 1  # type: ignore[attr-defined]
    match value:
        case Ours(number, text):
            assert (number, text) == (1, "none")


def test_mypy_lets_nobody_set_a_field() -> None:
    """Where it would, it would complain about the comment: of no use."""
    value = Lonely(1)
    value.number = 2  # type: ignore[misc]
    assert value.number == 2, "the interpreter does not watch it, as the decorator says"
