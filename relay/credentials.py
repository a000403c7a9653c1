"""Where the relay keeps its credentials: certificate, key, token and authority change together or not at all.

Each set is a directory of its own, complete and on disk before the link `current` is renamed to it. A crash leaves the
old set or the new one, and at most a directory that nothing points at.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.oracle_messages import Credentials
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import make_directory, write_atomically
from agentproxy.runtime.lockfile import held
from agentproxy.runtime.ownplace import refuse_link
from agentproxy.runtime.tlscontext import client_context

__all__ = ["CredentialSet", "CredentialStore", "credentials_directory"]

logger = logging.getLogger(__name__)

_CURRENT = "current"
_OURS = re.compile(r"\.?[0-9a-f]{16}")  # a set, or the link to it before it gets its name
PATIENCE_SECONDS = 5.0  # with another writer, who has some files written to the disk


def credentials_directory(state: Path) -> Path:
    """Where a relay with this state directory has them: it can write there, and perhaps nowhere else."""
    return state / "credentials"


@frozen
class CredentialSet:
    """The files of one set, in one directory."""

    directory: Path

    @property
    def authority(self) -> Path:
        """Who issues the oracles' certificates, PEM."""
        return self.directory / "authority.crt"

    @property
    def certificate(self) -> Path:
        """Ours, PEM."""
        return self.directory / "client.crt"

    @property
    def key(self) -> Path:
        """Its key, PEM, for us alone."""
        return self.directory / "client.key"

    @property
    def token(self) -> Path:
        """One line, for us alone."""
        return self.directory / "token"

    @property
    def origin(self) -> str:
        """What `CredentialStore.replace` was told; empty when there is nothing."""
        try:
            return (self.directory / "origin").read_text("ascii")
        except OSError:
            return ""

    def write(self, credentials: Credentials, origin: str = "") -> None:
        """Write all four and check that they belong together.

        Raises:
            ConfigError: key and certificate do not belong together, or are damaged.
            OSError: they cannot be written.
        """
        write_atomically(self.directory / "origin", origin.encode("ascii"), 0o600)
        write_atomically(self.authority, credentials.authority.encode(), 0o644)
        write_atomically(self.certificate, credentials.certificate.encode(), 0o644)
        write_atomically(self.key, credentials.private_key.encode(), 0o600)
        write_atomically(self.token, f"{credentials.token}\n".encode(), 0o600)
        client_context(self.authority, self.certificate, self.key)


class CredentialStore:
    """The sets of one relay.

    Args:
        directory: for this alone; made when it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def current(self) -> CredentialSet:
        """The set in use, by the path that stays the same."""
        return CredentialSet(self._directory / _CURRENT)

    @property
    def is_present(self) -> bool:
        """Whether there is a set."""
        return self.current.token.exists()

    def check_place(self) -> None:
        """See that nobody leads us elsewhere: the relay's user owns the directory above, and root enrols below it.

        Raises:
            ConfigError: a link of somebody else is in the place of the directory.
            OSError: it cannot be looked at.
        """
        refuse_link(self._directory)

    def replace(self, credentials: Credentials, origin: str = "") -> str:
        """Put new credentials in the place of the present ones, whose files stay until `tidy`. It blocks.

        Args:
            origin: kept with them: which enrolment file they came from.

        Returns:
            The name of the set that was in use, for `restore`; empty when there was none.

        Raises:
            ConfigError: they are damaged, or cannot be written; the present ones stay.
        """
        try:
            make_directory(self._directory, 0o700)
            with self._alone():
                return self._replace(credentials, origin)
        except OSError as error:
            raise ConfigError(f"{error.filename or self._directory}: cannot be written: {error.strerror}") from error

    def renew(self, credentials: Credentials) -> str:
        """As `replace`, with what an oracle sent, except that it is the enrolment that says whom to trust.

        An oracle in other hands could else bind us to itself, also once it is an honest one's turn again.

        Raises:
            ConfigError: as `replace`, or the present authority cannot be read.
        """
        try:
            known = self.current.authority.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.current.authority}: cannot be read: {error}") from error
        if credentials.authority != known:
            logger.warning(
                "the oracle sent another authority, which is not taken; if the CA was changed, enroll --replace"
            )
        return self.replace(replace(credentials, authority=known))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A relay, a client and an enrolment may all write here, and a set that is being written is in nobody's use."""
        with held(self._directory.with_suffix(".lock"), "writer of credentials", PATIENCE_SECONDS):
            self.check_place()
            yield

    def _replace(self, credentials: Credentials, origin: str) -> str:
        fresh, before = CredentialSet(self._directory / secrets.token_hex(8)), self._in_use()
        try:
            make_directory(fresh.directory, 0o700)
            fresh.write(credentials, origin)
            self._point_to(fresh.directory.name)
        except BaseException:
            self._give_up(fresh.directory, before)
            raise
        return before

    def _give_up(self, directory: Path, before: str) -> None:
        """Remove a new set; the link may lead to it already, and must not lead to nothing."""
        if before and self._in_use() == directory.name:
            with contextlib.suppress(OSError):
                self._point_to(before)
        if not before or self._in_use() != directory.name:
            self._remove(directory)

    def restore(self, name: str) -> None:
        """Use an earlier set again, since the oracle does not take the present one. It blocks.

        Raises:
            OSError, ConfigError: it cannot be put back; the present one stays.
        """
        with self._alone():
            if name and (self._directory / name).is_dir():
                self._point_to(name)

    def _in_use(self) -> str:
        try:
            return os.readlink(self._directory / _CURRENT)  # noqa: PTH115  the name itself
        except OSError:
            return ""

    def tidy(self) -> None:
        """Remove the sets that are not in use: after the present one was confirmed. It blocks."""
        with contextlib.suppress(OSError, ConfigError), self._alone():
            in_use = self._in_use()
            for entry in self._directory.iterdir():
                # By name: who may write above can put any other directory in this place, at any moment.
                if _OURS.fullmatch(entry.name) and entry.name != in_use:
                    self._remove(entry)

    def _point_to(self, name: str) -> None:
        link = self._directory / f".{name}"
        # Before anything changes: on a host without a free descriptor it fails.
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            link.unlink(missing_ok=True)  # of a relay that was killed between the next two
            link.symlink_to(name)
            link.replace(self._directory / _CURRENT)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _remove(entry: Path) -> None:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                entry.unlink()
