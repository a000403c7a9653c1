"""Whether a head that somebody kept lies in the log. Reads only, and never maps a file, as `credentiallog`."""

from pathlib import Path

from agentproxy.protocol.fields import Head
from agentproxy.signer.credentiallog import read_line
from agentproxy.signer.record import hash_of_line

__all__ = ["misfit"]


def misfit(directory: Path, head: Head, now: Head | None) -> str:
    """Why `head` is not of the log that ends with `now`; empty when it is. It blocks for a few reads.

    Raises:
        BackendError: the record was archived or cannot be read, so nobody can tell.
    """
    if now is None or now.node != head.node:
        return f"this log is not of node {head.node}"
    if head.sequence > now.sequence:
        return f"the log ends with record {now.sequence}: {head.sequence - now.sequence} records were cut off"
    line = read_line(directory, head.sequence)
    if hash_of_line(line) != head.hash:
        return f"record {head.sequence} is not the one that was there: the log was rewritten"
    return ""
