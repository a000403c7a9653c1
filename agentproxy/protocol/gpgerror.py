"""The error codes that gpg's agent protocol knows, and the line that tells one to gpg.

gpg shows its own words for the code and drops ours: choose the code as the message.
Sources: libgpg-error's err-codes.h and err-sources.h (a number is source << 24 | code).
"""

import enum

__all__ = ["GpgError", "err_line"]

_GPG_AGENT = 4 << 24
_SYSTEM = 1 << 15  # the code is an errno, in libgpg-error's own numbering


class GpgError(enum.IntEnum):
    """A code of error source "GPG Agent", as the decimal number of an ERR line."""

    GENERAL = _GPG_AGENT | 1
    DIGEST_ALGO = _GPG_AGENT | 5
    BAD_SIGNATURE = _GPG_AGENT | 8
    BAD_PASSPHRASE = _GPG_AGENT | 11
    NO_SECKEY = _GPG_AGENT | 17
    NOT_FOUND = _GPG_AGENT | 27
    NETWORK = _GPG_AGENT | 48
    UNUSABLE_SECKEY = _GPG_AGENT | 54
    INV_VALUE = _GPG_AGENT | 55
    NO_DATA = _GPG_AGENT | 58
    NOT_SUPPORTED = _GPG_AGENT | 60
    TIMEOUT = _GPG_AGENT | 62
    INTERNAL = _GPG_AGENT | 63
    NOT_IMPLEMENTED = _GPG_AGENT | 69
    TRUNCATED = _GPG_AGENT | 74
    NO_AGENT = _GPG_AGENT | 77
    NO_PIN_ENTRY = _GPG_AGENT | 85
    NOT_TRUSTED = _GPG_AGENT | 98
    CANCELED = _GPG_AGENT | 99
    NOT_CONFIRMED = _GPG_AGENT | 114
    INV_LENGTH = _GPG_AGENT | 139
    LOCKED = _GPG_AGENT | 173
    UNKNOWN_OPTION = _GPG_AGENT | 174
    NOT_OPERATIONAL = _GPG_AGENT | 176
    LIMIT_REACHED = _GPG_AGENT | 183
    FULLY_CANCELED = _GPG_AGENT | 198
    SERVER_FAILED = _GPG_AGENT | 219
    FORBIDDEN = _GPG_AGENT | 251
    FALSE = _GPG_AGENT | 256
    UNKNOWN_COMMAND = _GPG_AGENT | 275
    SYNTAX = _GPG_AGENT | 276
    PARAMETER = _GPG_AGENT | 280
    CONNECTION_REFUSED = _GPG_AGENT | _SYSTEM | 25

    @property
    def text(self) -> str:
        """What gpg_strerror says, and so what the person at gpg reads."""
        return _TEXTS[self]


_TEXTS = {
    GpgError.GENERAL: "General error",
    GpgError.DIGEST_ALGO: "Invalid digest algorithm",
    GpgError.BAD_SIGNATURE: "Bad signature",
    GpgError.BAD_PASSPHRASE: "Bad passphrase",
    GpgError.NO_SECKEY: "No secret key",
    GpgError.NOT_FOUND: "Not found",
    GpgError.NETWORK: "Network error",
    GpgError.UNUSABLE_SECKEY: "Unusable secret key",
    GpgError.INV_VALUE: "Invalid value",
    GpgError.NO_DATA: "No data",
    GpgError.NOT_SUPPORTED: "Not supported",
    GpgError.TIMEOUT: "Timeout",
    GpgError.INTERNAL: "Internal error",
    GpgError.NOT_IMPLEMENTED: "Not implemented",
    GpgError.TRUNCATED: "Result truncated",
    GpgError.NO_AGENT: "No agent running",
    GpgError.NO_PIN_ENTRY: "No pinentry",
    GpgError.NOT_TRUSTED: "Not trusted",
    GpgError.CANCELED: "Operation cancelled",
    GpgError.NOT_CONFIRMED: "Not confirmed",
    GpgError.INV_LENGTH: "Invalid length",
    GpgError.LOCKED: "Locked",
    GpgError.UNKNOWN_OPTION: "Unknown option",
    GpgError.NOT_OPERATIONAL: "Not operational",
    GpgError.LIMIT_REACHED: "Limit reached",
    GpgError.FULLY_CANCELED: "Operation fully cancelled",
    GpgError.SERVER_FAILED: "Server indicated a failure",
    GpgError.FORBIDDEN: "Forbidden",
    GpgError.FALSE: "False",
    GpgError.UNKNOWN_COMMAND: "Unknown IPC command",
    GpgError.SYNTAX: "IPC syntax error",
    GpgError.PARAMETER: "IPC parameter error",
    GpgError.CONNECTION_REFUSED: "Connection refused",
}


def err_line(error: GpgError) -> bytes:
    """The reply line `ERR <number> <text> <GPG Agent>`, in the form of gpg-agent's own."""
    return b"ERR %d %s <GPG Agent>\n" % (error.value, error.text.encode("ascii"))
