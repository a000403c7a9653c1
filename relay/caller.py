"""What the relay can see of its caller: the claims that make the audit log readable.

They are claimed, never proven: a process can choose its command line, and its pid may be another's by now. Collecting
them takes well under a millisecond and cannot fail; what cannot be read is left out.
"""

import os
import re
import time
from collections.abc import Iterator

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import MAX_CLAIM, MAX_COMMANDS, Claims
from agentproxy.runtime.unixsocket import Peer

__all__ = ["claims_of", "user_words"]

_MOST_READ = 4096  # bytes of a command line
# rpmsign runs one gpg after another, and their parents stay the same: what was read is used again for so long. A pid
# comes back sooner only on a host that starts 30000 processes a second, and then a claim is wrong, which it may be.
_FRESH_SECONDS = 1.0
_MOST_KEPT = 256
_MOST_PASSWD = 1_048_576  # bytes
_HIDDEN = "[hidden]"
# gpg and its friends take secrets on the command line if people insist; the audit log is read by many.
_SECRET_OPTION = re.compile(r"--?[a-z-]*(?:passphrase|password|passwd|token|secret)", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"(--?[a-z-]*(?:passphrase|password|passwd|token|secret)[a-z-]*)=.*", re.IGNORECASE | re.DOTALL
)
_NOT_A_SECRET = re.compile(r"--passphrase-(?:fd|file|repeat)")
# The same characters that `agentproxy.protocol.fields.check_text` refuses.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PARENT = re.compile(
    rb"\) [A-Za-z] ([0-9]+) "
)  # proc(5), stat: the command stands in parentheses and may hold any byte


def claims_of(peer: Peer) -> Claims | None:
    """Uid, user, pid and the command lines of the caller and its parents; None when nothing fits into claims."""
    try:
        return Claims(
            uid=peer.uid,
            user=_user(peer.uid),
            pid=peer.pid,
            commands=tuple(_commands(peer.pid)),
        )
    except RemoteProtocolError:
        return None


def user_words(uid: int) -> str:
    """Who that is, for people: `uid 0 (root)`."""
    name = _user(uid)
    return f"uid {uid} ({name})" if name else f"uid {uid}"


class _Kept:
    """What was read a moment ago: a text, and for a process its parent."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[float, str | None, int]] = {}

    def fresh(self, key: int) -> tuple[str | None, int] | None:
        known = self._values.get(key)
        if known is None or time.monotonic() - known[0] > _FRESH_SECONDS:
            return None
        return known[1], known[2]

    def keep(self, key: int, text: str | None, parent: int) -> None:
        if len(self._values) >= _MOST_KEPT:
            self._values.clear()
        self._values[key] = (time.monotonic(), text, parent)


_processes = _Kept()
_users = _Kept()


def _user(uid: int) -> str | None:
    known = _users.fresh(uid)
    if known is None:
        known = (_read_user(uid), 0)
        _users.keep(uid, *known)
    return known[0]


def _read_user(uid: int) -> str | None:
    # Not pwd.getpwuid: behind it may be a directory server, which would hold up every signature.
    try:
        text = _read("/etc/passwd", _MOST_PASSWD).decode("utf-8", "replace")
    except OSError:
        return None
    found = re.search(rf"^([^:\n]+):[^:\n]*:{uid}:", text, re.MULTILINE)
    return _clean(found[1]) if found is not None else None


def _commands(pid: int) -> Iterator[str]:
    for _ in range(MAX_COMMANDS):
        if pid <= 1:
            return
        known = _processes.fresh(pid)
        if known is None:
            known = _read_process(pid)
            _processes.keep(pid, *known)
        text, pid = known
        if text is None:
            return  # it ended, or belongs to somebody whom we may not look at
        yield text


def _read_process(pid: int) -> tuple[str | None, int]:
    try:
        words = _read(f"/proc/{pid}/cmdline").decode("utf-8", "replace").rstrip("\0").split("\0")
        parents = _PARENT.findall(_read(f"/proc/{pid}/stat"))
    except OSError:
        return None, 0
    return _clean(" ".join(_without_secrets(words))), int(parents[-1]) if parents else 0


def _read(path: str, most: int = _MOST_READ) -> bytes:
    # Plain system calls: this happens for every signature, and file objects take twice the time.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def _without_secrets(words: list[str]) -> Iterator[str]:
    hide_next = False
    for word in words:
        if hide_next:
            yield _HIDDEN
            hide_next = False
        elif _NOT_A_SECRET.match(word) is not None:
            yield word
        else:
            hide_next = _SECRET_OPTION.fullmatch(word) is not None
            yield _SECRET_VALUE.sub(rf"\1={_HIDDEN}", word)


def _clean(text: str) -> str:
    return _CONTROL.sub("?", text)[:MAX_CLAIM]
