"""What a client's commands may say: their arguments as our types, and the tables of what exists.

Which command gets which answer is the session's business. Source: gpg-agent.texi, Agent Protocol;
gnupg/agent/command.c.
"""

import re
from collections.abc import Mapping

from agentproxy.protocol.assuan import Command
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.gpgerror import GpgError
from agentproxy.protocol.keys import Keygrip

__all__ = ["REFUSED_COMMANDS", "CommandError", "digest_argument", "keygrip_argument", "keygrip_arguments", "option"]

# Commands that exist and are not for a relay. Each of these codes makes gpg end at once and cleanly.
REFUSED_COMMANDS: Mapping[str, GpgError] = {
    "AUTH": GpgError.NOT_IMPLEMENTED,
    "CAN": GpgError.NOT_IMPLEMENTED,
    "CANCEL": GpgError.NOT_IMPLEMENTED,
    "CLEAR_PASSPHRASE": GpgError.FORBIDDEN,
    "D": GpgError.NOT_IMPLEMENTED,
    "DELETE_KEY": GpgError.FORBIDDEN,
    "END": GpgError.NOT_IMPLEMENTED,
    "EXPORT_KEY": GpgError.FORBIDDEN,
    "GENKEY": GpgError.FORBIDDEN,
    "GETEVENTCOUNTER": GpgError.FORBIDDEN,
    "GETVAL": GpgError.FORBIDDEN,
    "GET_CONFIRMATION": GpgError.FORBIDDEN,
    "GET_PASSPHRASE": GpgError.FORBIDDEN,
    "GET_SECRET": GpgError.FORBIDDEN,
    "HELP": GpgError.NOT_IMPLEMENTED,
    "IMPORT_KEY": GpgError.FORBIDDEN,
    "INPUT": GpgError.NOT_IMPLEMENTED,
    "ISTRUSTED": GpgError.NOT_TRUSTED,
    "KEYATTR": GpgError.FORBIDDEN,
    "KEYTOCARD": GpgError.FORBIDDEN,
    "KEYTOTPM": GpgError.FORBIDDEN,
    "KEYWRAP_KEY": GpgError.FORBIDDEN,
    "KILLAGENT": GpgError.FORBIDDEN,
    "LEARN": GpgError.FORBIDDEN,
    "LISTTRUSTED": GpgError.FORBIDDEN,
    "MARKTRUSTED": GpgError.FORBIDDEN,
    "OUTPUT": GpgError.NOT_IMPLEMENTED,
    "PASSWD": GpgError.FORBIDDEN,
    "PKDECRYPT": GpgError.FORBIDDEN,
    "PRESET_PASSPHRASE": GpgError.FORBIDDEN,
    "PUTVAL": GpgError.FORBIDDEN,
    "PUT_SECRET": GpgError.FORBIDDEN,
    "SCD": GpgError.NOT_SUPPORTED,
    "UPDATESTARTUPTTY": GpgError.FORBIDDEN,
}

# What gpg, sq, gpg-sq and gpg-connect-agent send. gpg gives up at the first of most of these that fails.
_OPTIONS = frozenset(
    {
        "agent-awareness",
        "allow-pinentry-notify",
        "display",
        "lc-ctype",
        "lc-messages",
        "pinentry-mode",
        "pinentry-user-data",
        "pretend-request-origin",
        "putenv",
        "ttyname",
        "ttytype",
        "use-cache-for-signing",
        "xauthority",
    }
)
_PINENTRY_MODES = frozenset({b"ask", b"cancel", b"default", b"error", b"loopback"})
_OPTION = re.compile(rb"(?:--)?([^\s=]+)(?:[ \t]*=[ \t]*|[ \t]+|\Z)(.*)", re.DOTALL)

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_HASH_NUMBERS: Mapping[str, HashAlgorithm] = {str(algorithm.value): algorithm for algorithm in HashAlgorithm}
_HASH_NAMES: Mapping[str, HashAlgorithm] = {
    "md5": HashAlgorithm.MD5,
    "rmd160": HashAlgorithm.RIPEMD160,
    "sha1": HashAlgorithm.SHA1,
    "sha224": HashAlgorithm.SHA224,
    "sha256": HashAlgorithm.SHA256,
    "sha384": HashAlgorithm.SHA384,
    "sha512": HashAlgorithm.SHA512,
}


class CommandError(RemoteProtocolError):
    """A command that is answered with a code; its message is for the log, without control characters."""

    def __init__(self, code: GpgError, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def keygrip_argument(command: Command) -> Keygrip:
    """The one keygrip that SIGKEY, READKEY and KEYINFO name.

    Raises:
        CommandError: none, several, something else, or any option: `--ssh-fpr` and its like are not for a relay.
    """
    _refuse_options(command)
    arguments = command.arguments
    if len(arguments) != 1:
        raise CommandError(GpgError.PARAMETER, f"{command.name}: expected one keygrip")
    try:
        return Keygrip.parse(arguments[0])
    except RemoteProtocolError as error:
        raise CommandError(GpgError.PARAMETER, f"{command.name}: {error}") from error


def keygrip_arguments(command: Command) -> tuple[Keygrip, ...]:
    """The keygrips, at least one, that HAVEKEY names.

    Raises:
        CommandError: there is none, one is malformed, or an option stands before them.
    """
    _refuse_options(command)
    try:
        grips = tuple(map(Keygrip.parse, command.arguments))
    except RemoteProtocolError as error:
        raise CommandError(GpgError.PARAMETER, f"{command.name}: {error}") from error
    if not grips:
        raise CommandError(GpgError.PARAMETER, f"{command.name}: expected keygrips")
    return grips


def _refuse_options(command: Command) -> None:
    for name in command.options:
        raise CommandError(GpgError.FORBIDDEN, f"{command.name}: option {name[:32]!r} is not served")


def digest_argument(command: Command) -> Digest:
    """What SETHASH names, as `N hex` or `--hash=name hex`.

    Raises:
        CommandError: another form, an unknown algorithm, or a length that is not the algorithm's. `--inquire` is
            forbidden: by it a client can have up to 2048 bytes of its choice signed by an EdDSA key.
    """
    algorithm, text = _algorithm_and_hex(command)
    if algorithm is None:
        raise CommandError(GpgError.DIGEST_ALGO, "SETHASH: unknown hash algorithm")
    if _HEX.fullmatch(text) is None:
        raise CommandError(GpgError.PARAMETER, "SETHASH: expected a digest in hex")
    try:
        return Digest(algorithm, bytes.fromhex(text))
    except RemoteProtocolError as error:
        raise CommandError(GpgError.INV_LENGTH, f"SETHASH: {error}") from error


def _algorithm_and_hex(command: Command) -> tuple[HashAlgorithm | None, str]:
    match command.options, command.arguments:
        case {"hash": name, **rest}, (text,) if not rest:
            return _HASH_NAMES.get(name), text
        case {**options}, (number, text) if not options:
            return _HASH_NUMBERS.get(number), text
        case {**options}, _ if set(options) - {"hash"}:
            raise CommandError(GpgError.FORBIDDEN, "SETHASH: options other than --hash are not served")
    raise CommandError(GpgError.PARAMETER, "SETHASH: expected an algorithm and a digest")


def option(command: Command) -> tuple[str, bytes]:
    """Name and value of an OPTION that we know. Values may be secrets of the caller: no error repeats one.

    Raises:
        CommandError: no name, an unknown one, or an unknown pinentry mode.
    """
    found = _OPTION.fullmatch(command.text)
    if found is None:
        raise CommandError(GpgError.SYNTAX, "OPTION: expected a name")
    name, value = found[1].decode("ascii", "backslashreplace"), found[2].rstrip()
    if name not in _OPTIONS:
        raise CommandError(GpgError.UNKNOWN_OPTION, f"OPTION: {name[:32]!r} is not known")
    if name == "pinentry-mode" and value not in _PINENTRY_MODES:
        raise CommandError(GpgError.INV_VALUE, "OPTION: unknown pinentry-mode")
    return name, value
