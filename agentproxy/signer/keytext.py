"""The text of gpg-agent's key files: the container and the S-expression in it, as nested tuples of octets.

A file is either an extended one (`Name: value` lines; the S-expression in advanced form stands under `Key:`) or,
from older agents, the canonical S-expression alone. Which key it is and how to unlock it is left to `secretkey` and
`protection`.

Sources: GnuPG's agent/keyformat.txt and common/name-value.c (folding), libgcrypt's sexp.c (which octets it writes as
token, string or hex), RFC 9804.
"""

import re
from typing import TypeAlias

from agentproxy.protocol.errors import KeyUnavailableError

__all__ = ["MAX_FILE", "Node", "canonical", "parse_expression", "parse_text"]

Node: TypeAlias = "bytes | tuple[Node, ...]"

MAX_FILE = 64 * 1024  # octets: ten times an extended RSA-8192 file
_MAX_DEPTH = 12  # openpgp-native, the deepest form, needs 6
_MAX_NODES = 512
_MAX_LENGTH_DIGITS = 5  # of a verbatim string's length; MAX_FILE has five

_NAME = re.compile(rb"([A-Za-z][A-Za-z0-9-]{0,63}):(.*)", re.DOTALL)
_BLANKS = b" \t\r\n\v\f"
_TOKEN = re.compile(
    rb"""[ \t\r\n\v\f]*(?:
        (?P<open>\() | (?P<close>\))
      | \#(?P<hex>[0-9A-Fa-f \t\r\n\v\f]*)\#
      | "(?P<string>(?:[^"\\]|\\.)*)"
      | (?P<length>0|[1-9][0-9]*):
      | (?P<token>[A-Za-z./_:*+=-][A-Za-z0-9./_:*+=-]*)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(rb"""\\(?:([btvnfr"'\\])|x([0-9A-Fa-f]{2})|([0-3][0-7]{2})|(\r\n|\n\r|\r|\n)|(.|$))""", re.DOTALL)
_ESCAPED = dict(zip(b"btvnfr\"'\\", b"\b\t\v\n\f\r\"'\\", strict=True))


def parse_text(untrusted: bytes) -> Node:
    """The S-expression in the text of a key file.

    Raises:
        KeyUnavailableError: too long, damaged, or without a key. The message never repeats what the file holds.
    """
    if len(untrusted) > MAX_FILE:
        raise KeyUnavailableError(f"expected at most {MAX_FILE} bytes")
    if untrusted.startswith(b"("):
        return parse_expression(untrusted)
    return parse_expression(_key_field(untrusted))


def _key_field(untrusted: bytes) -> bytes:
    fields: list[tuple[bytes, list[bytes]]] = []
    for line in untrusted.split(b"\n"):
        if fields and (line[:1] in {b" ", b"\t"} or not line.strip(_BLANKS)):
            fields[-1][1].append(line)
        elif line.strip(_BLANKS) and not line.startswith(b"#"):
            match = _NAME.fullmatch(line)
            if match is None:
                raise KeyUnavailableError("expected lines like `Key: (private-key …)`")
            fields.append((match[1].lower(), [match[2]]))
    keys = [lines for name, lines in fields if name == b"key"]
    if len(keys) != 1:
        raise KeyUnavailableError(f"expected one field `Key:`, found {len(keys)}")
    return _unfolded(keys[0])


def _unfolded(lines: list[bytes]) -> bytes:
    """Join continuation lines: each loses one leading blank and all trailing ones (name-value.c)."""
    return b"".join((line[1:] if line[:1] in {b" ", b"\t"} else line).rstrip(_BLANKS) for line in lines)


def parse_expression(untrusted: bytes, padding: int = 0) -> Node:
    """One whole S-expression in advanced or canonical form, blanks around it allowed.

    Args:
        padding: how many octets of anything may follow (the CBC form fills its last block with random ones).

    Raises:
        KeyUnavailableError: anything else, or past our limits of depth and number.
    """
    stack: list[list[Node]] = [[]]
    position = nodes = 0
    while not (stack[0] and len(stack) == 1):
        match = _TOKEN.match(untrusted, position)
        nodes += 1
        if match is None or nodes > _MAX_NODES or len(stack) > _MAX_DEPTH:
            raise KeyUnavailableError("the S-expression is cut off, damaged or too deep")
        position = match.end()
        if match["open"]:
            stack.append([])
        elif match["close"]:
            if len(stack) == 1:
                raise KeyUnavailableError("the S-expression has a `)` too many")
            done = tuple(stack.pop())
            stack[-1].append(done)
        else:
            value, position = _atom(match, untrusted, position)
            stack[-1].append(value)
    if len(untrusted[position:].strip(_BLANKS)) > padding:
        raise KeyUnavailableError("something follows the S-expression")
    return stack[0][0]


def _atom(match: re.Match[bytes], untrusted: bytes, position: int) -> tuple[bytes, int]:
    if match["token"] is not None:
        return match["token"], position
    if match["hex"] is not None:
        digits = match["hex"].translate(None, _BLANKS)
        if len(digits) % 2:
            raise KeyUnavailableError("a hex value of the S-expression has half an octet")
        return bytes.fromhex(digits.decode("ascii")), position
    if match["string"] is not None:
        return _ESCAPE.sub(_unescaped, match["string"]), position
    digits = match["length"]
    end = position + int(digits[:_MAX_LENGTH_DIGITS])
    if len(digits) > _MAX_LENGTH_DIGITS or end > len(untrusted):
        raise KeyUnavailableError("a value of the S-expression is cut off")
    return untrusted[position:end], end


def _unescaped(match: re.Match[bytes]) -> bytes:
    plain, hexadecimal, octal, newline, wrong = match.groups()
    if plain:
        return bytes([_ESCAPED[plain[0]]])
    if hexadecimal:
        return bytes.fromhex(hexadecimal.decode("ascii"))
    if octal:
        return bytes([int(octal, 8)])
    if newline:
        return b""
    raise KeyUnavailableError(f"a string of the S-expression has {'an unknown' if wrong else 'a cut off'} escape")


def canonical(node: Node) -> bytes:
    """The canonical encoding, over which gpg-agent computes its integrity checks."""
    if isinstance(node, bytes):
        return b"%d:%s" % (len(node), node)
    return b"(" + b"".join(canonical(child) for child in node) + b")"
