"""The directory of a `blind-oracle dev` system: where its files are, and who may change it just now."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentproxy.admin.layout import Layout
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen
from agentproxy.runtime.unixsocket import MAX_PATH
from relay.credentials import CredentialSet, CredentialStore, credentials_directory

__all__ = ["RUNNER", "Place"]

RUNNER = "dev"  # the name of the one build server
WAIT_SECONDS = 60.0  # a start ends soon when what it waits for is stopped; one that makes keys takes the longest
_LOOK_SECONDS = 0.05


@frozen
class Place:
    """A state directory as `init` makes it, with a relay, a GnuPG home and logs beside it."""

    root: Path  # absolute and without links: processes are recognized by it, whatever way led there

    @classmethod
    def at(cls, directory: Path) -> "Place":
        """The place in `directory`, which need not exist.

        Raises:
            ConfigError: its path is too long for the sockets in it, cannot stand in our files, or leads nowhere.
        """
        try:
            place = cls(directory.resolve())
        except FileNotFoundError as error:  # a relative path counts from there
            raise ConfigError(f"{directory}: the working directory is gone", "cd to one that is there") from error
        except RuntimeError as error:  # Python's way to say it
            raise ConfigError(f"{directory}: a symbolic link in it leads to itself", "choose another path") from error
        if any(character in str(place.root) for character in "$\n"):
            raise ConfigError(f"{directory}: what gpg and rpm read cannot hold '$' or a newline", "choose another path")
        if any("\udc80" <= character <= "\udcff" for character in str(place.root)):  # as Python keeps such bytes
            raise ConfigError(f"{directory}: is not UTF-8, which the oracle's files are", "choose another path")
        longest = max((place.control, place.socket, place.home / "S.gpg-agent"), key=lambda path: len(str(path)))
        excess = len(os.fsencode(longest)) - MAX_PATH
        if excess > 0:
            raise ConfigError(f"{directory}: {excess} bytes too long for the sockets in it", "choose a shorter path")
        return place

    @property
    def layout(self) -> Layout:
        """The oracle's and the signer's part."""
        return Layout(self.root)

    def node(self, number: int) -> Path:
        """The state directory of an oracle, counted from 0: the first one's is `root` itself."""
        return self.root / f"oracle-{number + 1}" if number else self.root

    @property
    def oracles(self) -> int:
        """How many oracles were made here."""
        number = 1
        while Layout(self.node(number)).oracle_config.exists():
            number += 1
        return number

    @property
    def relay(self) -> Path:
        """The build server's part."""
        return self.root / "relay"

    @property
    def relay_config(self) -> Path:
        """relay.yaml."""
        return self.relay / "relay.yaml"

    @property
    def credentials(self) -> CredentialSet:
        """What the build server proves itself with, once it is enrolled."""
        return CredentialStore(credentials_directory(self.relay / "state")).current

    @property
    def control(self) -> Path:
        """Where the relay tells its state."""
        return self.relay / "state" / "control.sock"

    @property
    def socket(self) -> Path:
        """Where gpg connects."""
        return self.relay / "run" / "S.gpg-agent"

    @property
    def home(self) -> Path:
        """GNUPGHOME of the build server: public keys only."""
        return self.relay / "gnupg"

    @property
    def fallback_home(self) -> Path:
        """The build server's own key and the agent for it, once `fallback setup` has made them."""
        return self.relay / "state" / "fallback" / "gnupg"

    @property
    def logs(self) -> Path:
        """What oracle (with its signer) and relay write to standard error."""
        return self.root / "log"

    @property
    def is_made(self) -> bool:
        """Whether `dev start` has finished here once."""
        return self._made.is_file()  # `/` has a directory of this name

    @property
    def _made(self) -> Path:
        return self.root / "dev"

    def set_made(self) -> None:
        """Note that everything is there."""
        self._made.write_text("made by: blind-oracle dev start\n", encoding="ascii")
        self.making.unlink(missing_ok=True)

    @property
    def making(self) -> Path:
        """The note that `dev start` is filling the directory, or was killed meanwhile."""
        return self.root / "dev.making"

    def set_making(self) -> None:
        """Note, in a directory that is empty, that what comes into it is ours."""
        self.making.write_text("being made by: blind-oracle dev start\n", encoding="ascii")

    def clear_unfinished(self) -> None:
        """Take away what a `dev start` left that was killed while it made everything: half a system is none."""
        if self.making.is_file():
            if not self.is_made:
                self.clear()
            self.making.unlink(missing_ok=True)

    def clear(self) -> None:
        """Empty the directory; the note that what is in it is ours goes last."""
        for entry in sorted(self.root.iterdir(), key=lambda entry: entry == self.making):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def check_made(self) -> None:
        """Raise ConfigError unless `dev start` has finished here once."""
        if not self.is_made:
            raise ConfigError(f"{self.root}: no dev system here", f"blind-oracle dev start {self.root}")

    @contextmanager
    def changing(self, meanwhile: Callable[[], None] | None = None) -> Iterator[None]:
        """Keep other `dev start` and `dev stop` away from this directory, which must exist.

        Args:
            meanwhile: called again and again while another is at work, for at most WAIT_SECONDS; None: do not wait.

        Raises:
            ConfigError: one of them is at work.
        """
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while not _locked(descriptor):
                if meanwhile is None or time.monotonic() > deadline:
                    raise ConfigError(f"{self.root}: another dev command is at work here", "wait for its end")
                meanwhile()
                time.sleep(_LOOK_SECONDS)
            yield
        finally:
            os.close(descriptor)


def _locked(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
