"""The conversation with one client, as a state machine that never waits.

Everything but PKSIGN is answered from the keys it was given; what is not in the table of commands is refused.
Whoever owns the connection moves the bytes and asks the oracle. Source of the answers and of which client needs
which: gpg-agent.texi, Agent Protocol; recorded conversations in tests/vectors.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from agentproxy.protocol.assuan import Command, LineReader, data_lines, ok_line, parse_command, status_line
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.gpgerror import GpgError, err_line
from agentproxy.protocol.keys import Keygrip, PublicKey
from agentproxy.protocol.sexp import encode_public_key, encode_signature
from agentproxy.protocol.signatures import Signature
from agentproxy.protocol.values import frozen
from relay.commands import (
    REFUSED_COMMANDS,
    CommandError,
    digest_argument,
    keygrip_argument,
    keygrip_arguments,
    option,
)

__all__ = ["Close", "Event", "HashRefused", "Reply", "Session", "SessionKey", "SignNeeded"]

# gpg prints a warning of three lines when its agent is older than itself; nothing else depends on the number.
_VERSION = b"9.9.9"
_MAX_PENDING = 16_384  # bytes that a client may send ahead while it waits for a signature; none of them sends any
_MAX_HINT = 1024  # characters

_NUMBER = re.compile(r"[0-9]{1,6}")


@frozen
class SessionKey:
    """A key that this client may use."""

    keygrip: Keygrip
    public_key: PublicKey
    hash_algorithms: frozenset[HashAlgorithm]
    name: str = ""


@frozen
class HashRefused:
    """A hash algorithm that is not allowed."""

    algorithm: HashAlgorithm
    key: SessionKey | None  # None: there are several, and none was chosen


@frozen
class Reply:
    """Bytes for the client."""

    data: bytes
    reason: str = ""  # why the client was refused, for the log: it sees only the words of a code
    about: HashRefused | None = None


@frozen
class SignNeeded:
    """The client waits for a signature: answer with `Session.signed` or `Session.failed`."""

    data: ClassVar[bytes] = b""
    reason: ClassVar[str] = ""

    keygrip: Keygrip
    digest: Digest


@frozen
class Close:
    """The conversation is over; what came before this event still goes out, and then its own bytes."""

    data: bytes = b""
    reason: str = ""  # empty when the client said good-bye


Event = Reply | SignNeeded | Close

_OK = Reply(ok_line())


class Session:
    """One client's conversation.

    Send `greeting` at once. Call `receive` with what the client sent and handle the events in order. After
    `SignNeeded` no command is read until `signed` or `failed`; then call `receive(b"")`, for what the client had
    sent ahead.

    Args:
        keys: what this client may use, in the order in which they are listed.

    Attributes:
        claims_hint: the client's PINENTRY_USER_DATA, at most 1024 printable characters, empty without one.
            Untrusted: whoever runs gpg chooses it.
        has_found_key: the client has just found or chosen a key of ours, and mostly it will want a signature soon.
            Whoever has seen it sets it back.
    """

    greeting: ClassVar[bytes] = ok_line("Pleased to meet you")

    def __init__(self, keys: Sequence[SessionKey]) -> None:
        self.claims_hint = ""
        self.has_found_key = False
        self._keys = {key.keygrip.value: key for key in keys}
        self._lines = LineReader()
        self._key: SessionKey | None = None
        self._digest: Digest | None = None
        self._is_signing = False
        self._is_closed = False

    def receive(self, untrusted: bytes) -> list[Event]:
        """Take bytes of the client; what they lead to, in order. Nothing comes after `Close`."""
        events: list[Event] = []
        if self._is_closed:
            return events
        self._lines.receive_data(untrusted)
        try:
            while not self._is_signing and (line := self._lines.next_line()) is not None:
                event = self._answer(line)
                if event is not None:
                    events.append(event)
                if isinstance(event, Close):
                    return events
        except RemoteProtocolError as error:
            return [*events, self._close(str(error))]
        if self._lines.pending > _MAX_PENDING:
            events.append(self._close(f"more than {_MAX_PENDING} bytes sent ahead of a signature"))
        return events

    def signed(self, signature: Signature) -> Reply:
        """End a `SignNeeded` with a signature, which the caller has checked: no client does."""
        self._end_signing()
        return _data(encode_signature(signature))

    def failed(self, error: GpgError, reason: str = "") -> Reply:
        """End a `SignNeeded` without one; gpg shows the words of `error`."""
        self._end_signing()
        return Reply(err_line(error), reason)

    def _end_signing(self) -> None:
        if not self._is_signing:
            raise LocalProtocolError("no signature was asked for")
        self._is_signing = False

    def _close(self, reason: str) -> Close:
        self._is_closed = True
        return Close(reason=reason)

    def _answer(self, line: bytes) -> Event | None:
        try:
            command = parse_command(line)
        except RemoteProtocolError as error:
            return Reply(err_line(GpgError.SYNTAX), str(error))
        if command is None:
            return None
        try:
            return self._HANDLERS.get(command.name, Session._refuse)(self, command)
        except CommandError as error:
            return Reply(err_line(error.code), str(error))

    def _refuse(self, command: Command) -> Event:
        code = REFUSED_COMMANDS.get(command.name, GpgError.UNKNOWN_COMMAND)
        raise CommandError(code, f"command {command.name[:32]!r} is not served")

    def _nothing(self, _: Command) -> Event:
        return _OK

    def _bye(self, _: Command) -> Event:
        self._is_closed = True
        return Close(ok_line("closing connection"))

    def _reset(self, _: Command) -> Event:
        # The options stay: gpg sends them once, and RESET before every signature.
        self._key = self._digest = None
        return _OK

    def _option(self, command: Command) -> Event:
        name, value = option(command)
        if name == "pinentry-user-data":
            text = value.decode("utf-8", "replace")[:_MAX_HINT]
            self.claims_hint = "".join(character if character.isprintable() else "?" for character in text)
        return _OK

    def _getinfo(self, command: Command) -> Event:
        match command.arguments:
            case ("version",):
                return _data(_VERSION)
            case ("restricted",) | ("cmd_has_option", _, _):
                return Reply(err_line(GpgError.FALSE))  # an answer, not a refusal: no reason for the log
            case ():
                raise CommandError(GpgError.PARAMETER, "GETINFO: expected a topic")
        raise CommandError(GpgError.FORBIDDEN, "GETINFO: this topic is not served")

    def _havekey(self, command: Command) -> Event:
        match command.options, command.arguments:
            case {"list": limit, **rest}, () if not rest:
                return self._list_keygrips(limit)
        if not any(grip.value in self._keys for grip in keygrip_arguments(command)):
            raise CommandError(GpgError.NO_SECKEY, "HAVEKEY: none of the keygrips is ours")
        self.has_found_key = True
        return _OK

    def _list_keygrips(self, limit: str) -> Event:
        if limit and _NUMBER.fullmatch(limit) is None:
            raise CommandError(GpgError.PARAMETER, "HAVEKEY: expected --list=N")
        if limit and len(self._keys) > int(limit):
            raise CommandError(GpgError.TRUNCATED, f"HAVEKEY: more than {limit} keys are ours")
        return _data(b"".join(self._keys))

    def _keyinfo(self, command: Command) -> Event:
        if command.options == {"list": ""} and not command.arguments:
            return Reply(b"".join([_keyinfo_line(key.keygrip) for key in self._keys.values()]) + _OK.data)
        key = self._named_key(command, GpgError.NOT_FOUND)
        return Reply(_keyinfo_line(key.keygrip) + _OK.data)

    def _readkey(self, command: Command) -> Event:
        return _data(encode_public_key(self._named_key(command, GpgError.NOT_FOUND).public_key))

    def _sigkey(self, command: Command) -> Event:
        self._key = None  # a refused choice must not leave the one before it in force
        self._key = self._named_key(command, GpgError.NO_SECKEY)
        return _OK

    def _named_key(self, command: Command, unknown: GpgError) -> SessionKey:
        grip = keygrip_argument(command)
        key = self._keys.get(grip.value)
        if key is None:
            raise CommandError(unknown, f"{command.name}: keygrip {grip} is not ours")
        self.has_found_key = True
        return key

    def _sethash(self, command: Command) -> Event:
        self._digest = None  # as with SIGKEY: what gets signed is what was accepted last, or nothing
        digest = digest_argument(command)
        # Before SIGKEY any key of ours may be meant; PKSIGN asks again.
        keys = self._keys.values() if self._key is None else (self._key,)
        if not any(digest.algorithm in key.hash_algorithms for key in keys):
            return _hash_refused(command.name, digest.algorithm, tuple(keys))
        self._digest = digest
        return _OK

    def _pksign(self, command: Command) -> Event:
        key, digest = self._key, self._digest
        # One SETHASH is one signature: a client that forgets the next must not get the last one again.
        self._digest = None
        if command.options:
            raise CommandError(GpgError.FORBIDDEN, "PKSIGN: options are not served")
        if len(command.arguments) > 1:  # one is a nonce of gpg-agent's cache, which means nothing here
            raise CommandError(GpgError.PARAMETER, "PKSIGN: too many arguments")
        if key is None:
            raise CommandError(GpgError.NO_SECKEY, "PKSIGN: no SIGKEY before it")
        if digest is None:
            raise CommandError(GpgError.NO_DATA, "PKSIGN: no SETHASH before it")
        if digest.algorithm not in key.hash_algorithms:
            return _hash_refused(command.name, digest.algorithm, (key,))
        self._is_signing = True
        return SignNeeded(key.keygrip, digest)

    _HANDLERS: ClassVar[Mapping[str, Callable[["Session", Command], Event]]] = {
        "BYE": _bye,
        "GETINFO": _getinfo,
        "HAVEKEY": _havekey,
        "KEYINFO": _keyinfo,
        "NOP": _nothing,
        "OPTION": _option,
        "PKSIGN": _pksign,
        "READKEY": _readkey,
        "RELOADAGENT": _nothing,
        "RESET": _reset,
        "SETHASH": _sethash,
        "SETKEY": _sigkey,
        "SETKEYDESC": _nothing,  # a text for a pinentry, which there is not: it decides nothing
        "SIGKEY": _sigkey,
    }


def _hash_refused(command: str, algorithm: HashAlgorithm, keys: Sequence[SessionKey]) -> Reply:
    key = keys[0] if len(keys) == 1 else None
    whose = "any key" if key is None else f"key {key.name or key.keygrip}"
    names = sorted({each.name.lower() for one in keys for each in one.hash_algorithms})
    reason = f"{command}: {algorithm.name} is not allowed for {whose} (allowed: {', '.join(names) or 'none'})"
    return Reply(err_line(GpgError.DIGEST_ALGO), reason, HashRefused(algorithm, key))


def _data(payload: bytes) -> Reply:
    return Reply(data_lines(payload) + _OK.data)


def _keyinfo_line(grip: Keygrip) -> bytes:
    """Nine fields, always: on disk, not cached, no passphrase. "T", a card, would make gpg prefer SHA-1."""
    return status_line("KEYINFO", f"{grip} D - - - C - - -")
