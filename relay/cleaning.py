"""Makes texts of anybody's fit for the audit log."""

from agentproxy.protocol.fields import size_of_texts, without_controls

__all__ = ["Room", "clean"]


def clean(text: str, most: int) -> str:
    """At most so many characters, with a question mark for each control character."""
    return without_controls(text[:most])


class Room:
    """How many bytes of texts claims still have; what does not fit is left out."""

    def __init__(self, left: int) -> None:
        self._left = left

    def has(self, *texts: str) -> bool:
        """Take the room for these, if it is there."""
        size = size_of_texts(texts)
        if size > self._left:
            return False
        self._left -= size
        return True
