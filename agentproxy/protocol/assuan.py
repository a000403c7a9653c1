"""Assuan, the line protocol between gpg and its agent: both roles, bytes in and values out.

Which command means what is the session's business. Limits are the ones that real agents and clients keep.
Sources: libassuan's manual, 2 (protocol); assuan.h (ASSUAN_LINELENGTH 1002).
"""

import re
from collections.abc import Iterator

from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.values import frozen

__all__ = [
    "MAX_LINE",
    "Command",
    "Data",
    "Err",
    "Inquire",
    "LineReader",
    "Ok",
    "ReplyLine",
    "ReplyReader",
    "StatusLine",
    "data_lines",
    "encode_command",
    "escape",
    "ok_line",
    "parse_command",
    "status_line",
    "unescape",
    "unescape_leniently",
]

MAX_LINE = 1002  # bytes with the newline: gpg-agent hangs up at 1003
_MAX_SENT = 1000  # bytes without the newline: clients with smaller buffers exist

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BLANKS = re.compile(rb"[ \t]+")
_OPTION = re.compile(r"--([^\s=]+)(?:=(.*))?", re.DOTALL)
_ERR = re.compile(rb"([0-9]{1,10})(?: (.*))?", re.DOTALL)
_KEYWORD = re.compile(rb"([A-Za-z0-9_]+)(?:[ \t]+(.*))?", re.DOTALL)


class LineReader:
    """Collects bytes and gives out whole lines, in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, untrusted: bytes) -> None:
        """Take more bytes from the stream."""
        self._buffer += untrusted

    def next_line(self) -> bytes | None:
        r"""Take the next whole line without its LF or CR LF; None asks for more bytes.

        Raises:
            RemoteProtocolError: the peer sent MAX_LINE bytes without a newline.
        """
        if not self._buffer:
            return None
        end = self._buffer.find(b"\n", 0, MAX_LINE)
        if end < 0:
            if len(self._buffer) >= MAX_LINE:
                raise RemoteProtocolError(f"a line has at most {MAX_LINE} bytes with its newline")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")

    @property
    def pending(self) -> int:
        """How many bytes wait here: a bound for whoever cannot take lines for a while."""
        return len(self._buffer)


def escape(data: bytes) -> bytes:
    """Write `%`, CR and LF as %25, %0D and %0A; every other byte stands for itself, NUL too."""
    return data.replace(b"%", b"%25").replace(b"\r", b"%0D").replace(b"\n", b"%0A")


def unescape(untrusted: bytes) -> bytes:
    """Undo `escape`, and any other %XX.

    Raises:
        RemoteProtocolError: a `%` without two hex digits behind it.
    """
    if b"%" not in untrusted:
        return untrusted
    if _BAD_ESCAPE.search(untrusted) is not None:
        raise RemoteProtocolError("a '%' without two hex digits")
    return unescape_leniently(untrusted)


def unescape_leniently(untrusted: bytes) -> bytes:
    """Undo every whole %XX and keep the rest: clients cut long texts, also inside an escape."""
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode("ascii")), untrusted)


@frozen
class Command:
    """One line of a client.

    Only some commands have options and arguments in the form that is read here; the text of others, such as
    SETKEYDESC, means itself.

    Attributes:
        name: upper case; what is not ASCII shows as a backslash escape, and so is no command's name.
        text: what follows the name and its blanks, escapes and all.
        options: the leading `--name` and `--name=value` words up to a bare `--`; the value is "" when there is none.
        arguments: the words after the options, by blanks. Bytes beyond ASCII become backslash escapes.
    """

    name: str
    text: bytes
    options: dict[str, str]
    arguments: tuple[str, ...]


def _split(text: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    words = text.decode("ascii", "backslashreplace").replace("\t", " ").split(" ")
    words = [word for word in words if word]
    options: dict[str, str] = {}
    for position, word in enumerate(words):
        if word == "--":
            return options, tuple(words[position + 1 :])
        option = _OPTION.fullmatch(word)
        if option is None:
            return options, tuple(words[position:])
        options[option[1]] = option[2] or ""
    return options, ()


def parse_command(line: bytes) -> Command | None:
    """What a client's line says; None for empty lines and comments, which get no reply.

    Raises:
        RemoteProtocolError: the line begins with a blank.
    """
    if not line or line.startswith(b"#"):
        return None
    if line[0] in b" \t":
        raise RemoteProtocolError("a command begins at the line's first byte")
    name, *rest = _BLANKS.split(line, maxsplit=1)
    text = rest[0] if rest else b""
    options, arguments = _split(text) if text else ({}, ())
    return Command(name.decode("ascii", "backslashreplace").upper(), text, options, arguments)


def ok_line(text: str = "") -> bytes:
    """`OK` with an optional text for people."""
    return _sent(b"OK " + text.encode("ascii") if text else b"OK")


def status_line(keyword: str, text: str) -> bytes:
    """`S KEYWORD text`, which goes before the `OK` or `ERR` that ends a reply."""
    return _sent(f"S {keyword} {text}".encode("ascii"))


def data_lines(payload: bytes) -> bytes:
    """`D` lines that carry `payload`, as many as it needs; none for nothing."""
    escaped = escape(payload)
    if 0 < len(escaped) <= _MAX_SENT - 2:
        return b"D " + escaped + b"\n"
    return b"".join(b"D " + chunk + b"\n" for chunk in _chunks(escaped, _MAX_SENT - 2))


def _chunks(escaped: bytes, size: int) -> Iterator[bytes]:
    start = 0
    while start < len(escaped):
        end = min(start + size, len(escaped))
        if end < len(escaped):  # an escape must not be cut in two
            cut = escaped.rfind(b"%", end - 2, end)
            end = cut if cut >= 0 else end
        yield escaped[start:end]
        start = end


def encode_command(name: str, text: str | bytes = b"") -> bytes:
    """One command line of a client; the caller escapes what must be.

    Raises:
        LocalProtocolError: the line would be too long, or two lines.
    """
    encoded = text if isinstance(text, bytes) else text.encode("utf-8")
    return _sent(name.encode("ascii") + (b" " + encoded if encoded else b""))


def _sent(line: bytes) -> bytes:
    if len(line) > _MAX_SENT or b"\n" in line or b"\r" in line:
        raise LocalProtocolError(f"a line has at most {_MAX_SENT} bytes and no line break")
    return line + b"\n"


@frozen
class Ok:
    """The command succeeded."""

    text: bytes = b""


@frozen
class Err:
    """The command failed."""

    code: int  # source << 24 | code, as libgpg-error numbers them
    text: bytes = b""


@frozen
class Data:
    """A part of the reply's data, escapes undone."""

    data: bytes


@frozen
class StatusLine:
    """A note before the reply's end."""

    keyword: str
    text: bytes = b""


@frozen
class Inquire:
    """A question, which the client answers with data lines and END, or with CAN."""

    keyword: str
    text: bytes = b""


ReplyLine = Ok | Err | Data | StatusLine | Inquire


class ReplyReader:
    """The client's side: collects bytes of an agent and gives out what each line says."""

    def __init__(self) -> None:
        self._lines = LineReader()

    def receive_data(self, untrusted: bytes) -> None:
        """Take more bytes from the stream."""
        self._lines.receive_data(untrusted)

    def next_reply(self) -> ReplyLine | None:
        """Take the next line that is not a comment; None asks for more bytes.

        Raises:
            RemoteProtocolError: a line that is too long or that no agent sends.
        """
        while (line := self._lines.next_line()) is not None:
            if line and not line.startswith(b"#"):
                return _parse_reply(line)
        return None


def _parse_reply(line: bytes) -> ReplyLine:
    kind, _, rest = line.partition(b" ")
    if kind == b"D":
        return Data(unescape(rest))
    if kind == b"OK":
        return Ok(rest)
    if kind == b"ERR" and (found := _ERR.fullmatch(rest)) is not None:
        return Err(int(found[1]), found[2] or b"")
    if kind == b"S" and (found := _KEYWORD.fullmatch(rest)) is not None:
        return StatusLine(found[1].decode("ascii"), found[2] or b"")
    if kind == b"INQUIRE" and (found := _KEYWORD.fullmatch(rest)) is not None:
        return Inquire(found[1].decode("ascii"), found[2] or b"")
    raise RemoteProtocolError("expected OK, ERR, D, S or INQUIRE")
