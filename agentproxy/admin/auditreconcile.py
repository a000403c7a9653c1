"""Compares a directory of packages and repository metadata with the log, in both directions."""

import os
from collections.abc import Iterator
from pathlib import Path

from agentproxy.admin.auditindex import AuditIndex, Found
from agentproxy.admin.auditorigin import Origin, Verdict, origin_of
from agentproxy.admin.auditquery import Query
from agentproxy.admin.signedfiles import SIGNATURE_SUFFIXES, signatures_of
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen

__all__ = ["Reconciliation", "reconcile"]


@frozen
class Reconciliation:
    """What fits and what does not."""

    files: int
    made: int  # signatures of this oracle
    fallback: int  # signatures that build servers made by themselves, as they were allowed to
    foreign: tuple[Origin, ...]  # signatures that are neither, or are of other content
    unsigned: tuple[Path, ...]
    unreadable: tuple[str, ...]  # with the reason
    missing: tuple[Found, ...]  # records of signatures that no file has

    @property
    def fits(self) -> bool:
        """Whether there is no difference."""
        return not (self.foreign or self.unsigned or self.unreadable or self.missing)


def reconcile(directory: Path, index: AuditIndex, query: Query) -> Reconciliation:
    """Look at every RPM and detached signature below `directory`.

    Args:
        query: which records must be there; of those, the ones of signatures are meant.

    Raises:
        ConfigError: the directory or the log cannot be read.
    """
    origins: list[Origin] = []
    unsigned, unreadable, files = [], [], 0
    for path in _files(directory):
        files += 1
        try:
            found = [origin_of(signature, index) for signature in signatures_of(path)]
        except ConfigError as error:
            unreadable.append(str(error))
            continue
        origins += found
        if not found:
            unsigned.append(path)
    seen = {origin.signature.signature_sha256 for origin in origins}
    missing = tuple(found for found in index.find(query) if found.record.entry.signature_sha256 not in seen)
    foreign = tuple(origin for origin in origins if not origin.is_accounted)
    made = sum(origin.verdict is Verdict.MADE for origin in origins)
    fallback = len(origins) - len(foreign) - made
    return Reconciliation(files, made, fallback, foreign, tuple(unsigned), tuple(unreadable), missing)


def _files(directory: Path) -> Iterator[Path]:
    """RPMs and detached signatures below `directory`; links to directories are not followed."""
    for top, directories, names in os.walk(directory, onerror=_refuse):
        directories.sort()
        for name in sorted(names):
            if name.endswith((".rpm", *SIGNATURE_SUFFIXES)):
                yield Path(top, name)


def _refuse(error: OSError) -> None:
    raise ConfigError(f"{error.filename}: {error.strerror}") from error
