"""What `doctor` finds: one line for each step of the way from gpg to a signature."""

import enum

from agentproxy.protocol.values import frozen

__all__ = ["Finding", "Verdict", "bad", "good", "skipped", "warning"]


class Verdict(enum.StrEnum):
    """How a step is."""

    OK = "ok"
    WARNING = "warning"  # it signs all the same
    BAD = "bad"
    SKIPPED = "skipped"  # nothing can be said, because of something before it or of what is not here


@frozen
class Finding:
    """One step."""

    check: str
    verdict: Verdict
    found: str
    hint: str = ""  # what to type


def good(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, found)


def warning(check: str, found: str, hint: str) -> Finding:
    """Somebody should look."""
    return Finding(check, Verdict.WARNING, found, hint)


def bad(check: str, found: str, hint: str) -> Finding:
    """Nothing is signed because of this."""
    return Finding(check, Verdict.BAD, found, hint)


def skipped(check: str, found: str) -> Finding:
    """Not looked at."""
    return Finding(check, Verdict.SKIPPED, found)
