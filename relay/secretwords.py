"""Hides secrets in a command line: gpg and its friends take them there if people insist; many read the audit log."""

import re
from collections.abc import Iterator, Sequence

__all__ = ["without_secrets"]

_HIDDEN = "[hidden]"
_SECRET_OPTION = re.compile(r"--?[a-z-]*(?:passphrase|password|passwd|token|secret)", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"(--?[a-z-]*(?:passphrase|password|passwd|token|secret)[a-z-]*)=.*", re.IGNORECASE | re.DOTALL
)
_NOT_A_SECRET = re.compile(r"--passphrase-(?:fd|file|repeat)")


def without_secrets(words: Sequence[str]) -> Iterator[str]:
    """The words, with a placeholder where an option gives a secret away."""
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
