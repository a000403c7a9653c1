"""A look at a request's head before it is parsed: length, line ends, and lines that go on, on which parsers disagree.

h11 takes a bare LF for the end of a line, as RFC 9112, 2.2 allows; others take it for a part of the line. Where two
programs in a row disagree, one request becomes two. No client that we know of sends one.
"""

import re

__all__ = ["HeadScan"]

_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]")
_END = b"\r\n\r\n"


class HeadScan:
    """Sees the bytes of one connection, request after request."""

    def __init__(self) -> None:
        self._seen = b""  # of this head; never more than the parser takes

    def starts(self) -> None:
        """A new request begins."""
        self._seen = b""

    def is_clean(self, untrusted: bytes) -> bool:
        """Whether these bytes, while the head is not whole, bring no line end but CR LF."""
        self._seen += untrusted
        end = self._seen.find(_END)
        head = self._seen if end < 0 else self._seen[: end + len(_END)]
        # What follows a last CR is not there yet.
        return _BARE.search(head[:-1] if end < 0 and head.endswith(b"\r") else head) is None

    def is_longer_than(self, most: int) -> bool:
        """Whether the head, as far as it is here, has more bytes; h11 does not ask where the whole came at once."""
        if len(self._seen) <= most:
            return False
        end = self._seen.find(_END)
        return end < 0 or end + len(_END) > most
