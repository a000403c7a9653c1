"""Names of users, from /etc/passwd, read again when it may have changed."""

import re
import time

from agentproxy.protocol.fields import MAX_CLAIM
from relay import procfs
from relay.cleaning import clean

__all__ = ["user_name", "user_words"]

_FRESH_SECONDS = 1.0
_MOST_PASSWD = 1_048_576  # bytes


def user_name(uid: int) -> str | None:
    """The name; None without one. Not pwd.getpwuid: behind it may be a directory server that hangs."""
    found = re.search(rf"^([^:\n]+):[^:\n]*:{uid}:", _passwd.text(), re.MULTILINE)
    return clean(found[1], MAX_CLAIM) if found is not None else None


def user_words(uid: int) -> str:
    """Who that is, for people: `uid 0 (root)`."""
    name = user_name(uid)
    return f"uid {uid} ({name})" if name else f"uid {uid}"


class _Passwd:
    def __init__(self) -> None:
        self._text = ""
        self._read_at = -_FRESH_SECONDS

    def text(self) -> str:
        if time.monotonic() - self._read_at >= _FRESH_SECONDS:
            try:
                self._text = procfs.read("/etc/passwd", _MOST_PASSWD).decode("utf-8", "replace")
            except OSError:
                self._text = ""
            self._read_at = time.monotonic()
        return self._text


_passwd = _Passwd()
