"""Hides secrets in a command line: gpg and its friends take them there if people insist; many read the audit log."""

import re
from collections.abc import Iterable, Iterator

__all__ = ["without_secrets"]

_HIDDEN = "[hidden]"
_SECRETS = ("passphrase", "password", "passwd", "token", "secret")
_SECRET_OPTION = re.compile(rf"--?[a-z-]*(?:{'|'.join(_SECRETS)})", re.IGNORECASE)
# An option, a variable of the environment, or a field of a header.
_NAME = re.compile(r"[\w-]+", re.ASCII)
# What all of the others have in them: most words, of which there may be a thousand, are seen through by this one.
_SUSPICIOUS = re.compile(r"pass|token|secret", re.IGNORECASE)
_NOT_A_SECRET = re.compile(r"--passphrase-(?:fd|file|repeat)")
_USER_OF_URL = re.compile(r"//[^/\s]+@")  # up to the last @: a password may hold one


def without_secrets(words: Iterable[str]) -> Iterator[str]:
    """The words, with a placeholder where a secret is given away: by an option, a variable, a header, or in an URL."""
    hide_next = False
    for whole in words:
        word = _USER_OF_URL.sub(f"//{_HIDDEN}@", whole) if "//" in whole else whole
        if hide_next:
            yield _HIDDEN
            hide_next = False
        elif _SUSPICIOUS.search(word) is None:
            yield word
        else:
            hide_next = _SECRET_OPTION.fullmatch(word) is not None
            yield _without_value(word)


def _without_value(word: str) -> str:
    """The word up to the first secret in it: it may be a whole command line, of `sh -c` or in a macro of rpm's.

    By one expression that is done with each character once: one that looks for an option everywhere takes minutes for a
    word of 100 000 dashes, and all threads wait for it.
    """
    for found in _NAME.finditer(word):
        name, end = found[0], found.end()
        if _SUSPICIOUS.search(name) is None or _NOT_A_SECRET.fullmatch(name) is not None:
            continue
        after = word[end : end + 2]
        is_assigned = after[:1] == "=" and any(secret in name.lower() for secret in _SECRETS)
        is_option = after[:1].isspace() and _SECRET_OPTION.fullmatch(name) is not None
        is_field = after == ": " and name.lower().endswith(_SECRETS)
        if is_assigned or is_option or is_field:
            return f"{word[: end + (2 if is_field else 1)]}{_HIDDEN}"
    return word
