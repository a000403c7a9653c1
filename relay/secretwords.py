"""Hides secrets in a command line: gpg and its friends take them there if people insist; many read the audit log."""

import re
from collections.abc import Iterable, Iterator

__all__ = ["without_secrets"]

_HIDDEN = "[hidden]"
_SECRET_OPTION = re.compile(r"--?[a-z-]*(?:passphrase|password|passwd|token|secret)", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"(--?[a-z-]*(?:passphrase|password|passwd|token|secret)[a-z-]*)=.*", re.IGNORECASE | re.DOTALL
)
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
            yield _SECRET_VALUE.sub(rf"\1={_HIDDEN}", word)
