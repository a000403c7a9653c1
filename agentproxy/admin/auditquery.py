"""What somebody looks for in the audit log: as a condition on the index, and again on each record that is read back."""

import fnmatch
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.times import format_time
from agentproxy.protocol.values import frozen
from agentproxy.signer.record import AuditRecord

__all__ = ["Query", "file_name", "job_values", "package_name", "parse_moment", "without_epoch"]

_MIN_DIGEST = 8  # hex digits: fewer would name many
_EPOCH = re.compile(r"-[0-9]+:(?=[^-:]*-[^-:]*\Z)")
_MAX_TEXT = 4096  # characters: no claim is as long, and SQLite takes no pattern of any length


def parse_moment(text: str) -> datetime:
    """A date or a time (ISO 8601); UTC unless it says otherwise.

    Raises:
        ConfigError: it is neither.
    """
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"expected a date or a time, got {text!r}", "2026-11-22 or 2026-11-22T10:00") from error


def package_name(package: str) -> str:
    """NAME of NAME-EPOCH:VERSION-RELEASE.ARCH."""
    parts = package.rsplit("-", 2)
    return parts[0] if len(parts) == 3 else package


def without_epoch(package: str) -> str:
    """NAME-VERSION-RELEASE.ARCH, as files are named, of NAME-EPOCH:VERSION-RELEASE.ARCH."""
    return _EPOCH.sub("-", package)


def file_name(file: str) -> str:
    """A claimed file without its directory and `.rpm`."""
    return PurePosixPath(file).name.removesuffix(".rpm")


@frozen
class Query:
    """All that is given must fit. Package, file and job are claims, which nobody proved."""

    runner: str | None = None
    key: str | None = None
    since: datetime | None = None
    until: datetime | None = None  # this moment is not in it any more
    digest: str | None = None  # lower-case hex: all, or its beginning
    package: str | None = None  # a name, all of NAME-[EPOCH:]VERSION-RELEASE.ARCH, or a pattern with * and ?
    outcome: str | None = None
    job: str | None = None  # a value of the CI system's job, or NAME=VALUE
    request: str | None = None
    signature: bytes | None = None  # 32 bytes: `signature_sha256`
    channel: str | None = None  # relay, http, fallback, …; with the name of a relay's socket behind a slash, or any
    made: bool = False  # a signature was made: here, or by a runner's own key

    def __post_init__(self) -> None:
        for text in (self.runner, self.key, self.package, self.job, self.request, self.channel):
            _check_text(text or "")
        if self.digest is not None and (
            len(self.digest) < _MIN_DIGEST or not set(self.digest) <= set("0123456789abcdef")
        ):
            raise ConfigError(f"expected at least {_MIN_DIGEST} hex digits of a digest, got {self.digest!r}")

    def conditions(self) -> list[tuple[str, tuple[str, ...]]]:
        """For SQLite: conditions with their values."""
        found: list[tuple[str, tuple[str, ...]]] = []
        for column in ("runner", "key", "outcome", "request"):
            value = {"runner": self.runner, "key": self.key, "outcome": self.outcome, "request": self.request}[column]
            if value is not None:
                found.append((f"{column} = ?", (value,)))
        if self.since is not None:
            found.append(("time >= ?", (format_time(self.since),)))
        if self.until is not None:
            found.append(("time < ?", (format_time(self.until),)))
        if self.made:
            found.append(("signature IS NOT NULL", ()))
        if self.channel is not None:
            doors = (f"{self.channel}/", f"{self.channel}0")  # "0" is what comes behind "/"
            found.append(("(channel = ? OR (channel >= ? AND channel < ?))", (self.channel, *doors)))
        if self.digest is not None:
            found.append(("digest >= ? AND digest < ?", (self.digest, self.digest + "g")))
        if self.package is not None:
            found.append(("(package GLOB ? OR plain GLOB ? OR name GLOB ? OR file GLOB ?)", (_glob(self.package),) * 4))
        if self.signature is not None:
            found.append(("signature = ?", (self.signature.hex(),)))
        if self.job is not None:
            found.append(("sequence IN (SELECT sequence FROM jobs WHERE value = ?)", (self.job,)))
        return found

    def fits(self, record: AuditRecord) -> bool:
        """Whether a record, read from the log itself, is what was looked for."""
        entry = record.entry
        plain = (
            (self.runner, entry.asserted.runner),
            (self.key, entry.key),
            (self.outcome, entry.outcome.value),
            (self.request, entry.request),
        )
        return (
            all(wanted is None or wanted == found for wanted, found in plain)
            and (self.since is None or record.time >= self.since)
            and (self.until is None or record.time < self.until)
            and self.signature in {None, entry.signature_sha256}
            and (entry.signature_sha256 is not None or not self.made)
            and (self.channel is None or f"{entry.asserted.channel}/".startswith(f"{self.channel}/"))
            and (self.digest is None or (entry.digest is not None and entry.digest.value.hex().startswith(self.digest)))
            and self._claimed(entry.asserted.claims)
        )

    def _claimed(self, claims: Claims | None) -> bool:
        if self.package is None and self.job is None:
            return True
        if claims is None:
            return False
        if self.job is not None and self.job not in job_values(claims.job):
            return False
        return self.package is None or self._is_package(claims)

    def _is_package(self, claims: Claims) -> bool:
        package, pattern = claims.package or "", _glob(self.package or "")
        names = (package, without_epoch(package), package_name(package), file_name(claims.file or ""))
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _check_text(text: str) -> None:
    if len(text) > _MAX_TEXT:
        raise ConfigError(f"expected at most {_MAX_TEXT} characters to look for, got {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"expected UTF-8 to look for, got {text[:80]!r}", "no record has anything else") from error


def job_values(job: Mapping[str, str]) -> set[str]:
    """What a search for a job finds."""
    return {text for name, value in job.items() for text in (value, f"{name}={value}")}


def _glob(pattern: str) -> str:
    # Brackets have other rules in SQLite than in Python; nothing that is looked for needs them.
    return pattern.replace("[", "?").replace("]", "?")
