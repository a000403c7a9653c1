"""Makes texts of anybody's fit for the audit log."""

import re

from agentproxy.protocol.fields import size_of_texts

__all__ = ["Room", "clean"]

# The same characters that `agentproxy.protocol.fields.check_text` refuses.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str, most: int) -> str:
    """At most so many characters, with a question mark for each control character."""
    return _CONTROL.sub("?", text[:most])


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
