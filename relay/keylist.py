"""The keys that the oracle serves to this runner, kept on disk.

So everything but PKSIGN is answered while the oracle is away, and gpg then says "Network error" instead of
"No secret key". The file holds one `keys_changed` message as the oracle sends it; it holds nothing secret.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import trio

from agentproxy.protocol.errors import ProtocolError
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.keys import Keygrip, PublicKey
from agentproxy.protocol.messages import FROM_ORACLE
from agentproxy.protocol.oracle_messages import KeysChanged
from agentproxy.runtime.files import write_atomically

__all__ = ["KeyList"]

logger = logging.getLogger(__name__)

_MAX_FILE = 1_048_576  # bytes; a key takes about 2000, and a message at most 65536


class KeyList:
    """What this runner may sign with, as far as the relay knows.

    Args:
        path: where the list is kept; its directory exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored = b""
        self._served: tuple[ServedKey, ...] = ()
        self._by_keygrip: dict[Keygrip, ServedKey] = {}
        self._known = trio.Event()
        self.changes = 0  # grows with each change, so that a reader can keep what it derived from the list

    @property
    def served(self) -> Sequence[ServedKey]:
        """The keys, in the oracle's order."""
        return self._served

    def find(self, keygrip: Keygrip) -> ServedKey | None:
        """The key with this keygrip; None when it is not served."""
        return self._by_keygrip.get(keygrip)

    def public_key(self, keygrip: Keygrip) -> PublicKey | None:
        """The public numbers of a served key."""
        key = self.find(keygrip)
        return key.facts.public_key if key is not None else None

    def load(self) -> None:
        """Read the list of the last run; without one, or with a damaged one, the list stays empty until `welcome`."""
        try:
            with self._path.open("rb") as file:
                untrusted = file.read(_MAX_FILE + 1)
            message = FROM_ORACLE.decode(untrusted)
        except FileNotFoundError:
            return
        except (OSError, ProtocolError) as error:
            logger.warning("key list not read, path=%s error=%s", self._path, error)
            return
        if isinstance(message, KeysChanged):
            self._stored = untrusted
            self._take(message.keys)

    async def replace(self, keys: tuple[ServedKey, ...]) -> None:
        """Serve these keys from now on, and keep them on disk when they differ from what is there.

        A full disk is no reason not to sign: it is logged, and the next change tries again.
        """
        self._take(keys)
        data = FROM_ORACLE.encode(KeysChanged(keys))
        if data == self._stored:
            return
        try:
            await trio.to_thread.run_sync(write_atomically, self._path, data, 0o644)
        except OSError as error:
            logger.warning("key list not kept, path=%s error=%s", self._path, error)
        else:
            self._stored = data

    @property
    def is_known(self) -> bool:
        """Whether there is a list."""
        return self._known.is_set()

    async def known(self) -> None:
        """Wait until there is a list, from the disk or the oracle; without any, nothing can be said about a key."""
        await self._known.wait()

    def _take(self, keys: tuple[ServedKey, ...]) -> None:
        self._known.set()
        if keys == self._served:
            return
        self._served = keys
        self._by_keygrip = {key.facts.keygrip: key for key in keys}
        self.changes += 1
        logger.info("keys served, names=%s", ",".join(key.facts.name for key in keys) or "none")
