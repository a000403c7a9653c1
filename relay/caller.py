"""What the relay can see of its caller: the claims that make the audit log readable.

They are claimed, never proven: a process can choose its command line, and its pid may be another's by now. Collecting
them takes well under a millisecond and cannot fail; what cannot be read is left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import MAX_CLAIM, MAX_COMMANDS, Claims
from agentproxy.runtime.unixsocket import Peer

__all__ = ["claims_of"]

_PROC = Path("/proc")
_MOST_READ = 4096  # bytes of a command line
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


def _user(uid: int) -> str | None:
    # Not pwd.getpwuid: behind it may be a directory server, which would hold up every signature.
    try:
        lines = Path("/etc/passwd").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == str(uid):
            return _clean(fields[0])
    return None


def _commands(pid: int) -> Iterator[str]:
    for _ in range(MAX_COMMANDS):
        if pid <= 1:
            return
        directory = _PROC / str(pid)
        try:
            words = _read(directory / "cmdline").decode("utf-8", "replace").rstrip("\0").split("\0")
            parent = _PARENT.findall(_read(directory / "stat"))
        except OSError:
            return  # it ended, or belongs to somebody whom we may not look at
        yield _clean(" ".join(_without_secrets(words)))
        if not parent:
            return
        pid = int(parent[-1])


def _read(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(_MOST_READ)


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
