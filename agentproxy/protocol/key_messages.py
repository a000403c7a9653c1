"""A key as a runner is told of it, and the question which key is for a distribution."""

from typing import ClassVar

from agentproxy.protocol.fields import KeyFacts, check_name, check_request_id, check_text
from agentproxy.protocol.values import frozen

__all__ = ["SelectKey", "SelectedKey", "ServedKey"]


@frozen
class ServedKey:
    """A key that this runner may use, and for what."""

    facts: KeyFacts
    key_type: str  # "legacy", "modern" or another that the policy names
    distributions: tuple[str, ...] = ()  # patterns; empty: the key is for any, and none need be named

    def __post_init__(self) -> None:
        check_name(self.key_type, "key_type")
        for pattern in self.distributions:
            check_text(pattern, "distributions", 64)


@frozen
class SelectKey:
    """Which key is for this distribution; answered by `selected_key` or `refused`."""

    tag: ClassVar[str] = "select_key"
    id: str
    distribution: str
    key_type: str | None = None  # None: of any type

    def __post_init__(self) -> None:
        check_request_id(self.id)
        check_name(self.distribution, "distribution")
        if self.key_type is not None:
            check_name(self.key_type, "key_type")


@frozen
class SelectedKey:
    """The one key that this runner should use there."""

    tag: ClassVar[str] = "selected_key"
    id: str
    key: ServedKey

    def __post_init__(self) -> None:
        check_request_id(self.id)
