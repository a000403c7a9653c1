"""Hides secrets in a command line: gpg and its friends take them there if people insist; many read the audit log."""

import re
import string
from collections.abc import Iterable, Iterator

__all__ = ["without_secrets"]

_HIDDEN = "[hidden]"
_SECRETS = ("passphrase", "password", "passwd", "token", "secret")
_SECRET_OPTION = re.compile(rf"--?[a-z-]*(?:{'|'.join(_SECRETS)})", re.IGNORECASE)
_OF_OPTIONS = string.ascii_letters + "-"
# What all of the others have in them: most words, of which there may be a thousand, are seen through by this one.
_SUSPICIOUS = re.compile(r"pass|token|secret", re.IGNORECASE)
_NOT_A_SECRET = re.compile(r"--passphrase-(?:fd|file|repeat)")


def without_secrets(words: Iterable[str]) -> Iterator[str]:
    """The words, with a placeholder where an option gives a secret away."""
    hide_next = False
    for word in words:
        if hide_next:
            yield _HIDDEN
            hide_next = False
        elif _SUSPICIOUS.search(word) is None or _NOT_A_SECRET.match(word) is not None:
            yield word
        else:
            hide_next = _SECRET_OPTION.fullmatch(word) is not None
            yield _without_value(word)


def _without_value(word: str) -> str:
    """The word up to the value of the first option in it that gives a secret away.

    Without an expression: one that looks for an option everywhere takes minutes for a word of 100 000 dashes, and all
    threads wait for it.
    """
    parts = word.split("=")
    for number, part in enumerate(parts[:-1]):
        name = part[len(part.rstrip(_OF_OPTIONS)) :].lower()
        option = name[name.find("-") + 1 :] if "-" in name else ""
        if any(secret in option for secret in _SECRETS):
            return "=".join([*parts[: number + 1], _HIDDEN])
    return word
