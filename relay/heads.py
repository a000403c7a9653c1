"""The last ends of the oracles' audit logs that this relay saw, kept on disk.

With them somebody can later prove that nothing up to there was cut or rewritten: `blind-oracle audit verify --head`.
"""

import json
import logging
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.relay_messages import MAX_HEADS
from agentproxy.protocol.structure import UNREADABLE, structured
from agentproxy.protocol.unstructure import unstructured
from agentproxy.runtime.files import write_atomically
from agentproxy.runtime.lockfile import held

__all__ = ["KEEP_SECONDS", "LAST_WRITE_SECONDS", "Heads"]

logger = logging.getLogger(__name__)

# A crash loses the heads of at most so long; writing each one would cost an fsync per signature.
KEEP_SECONDS = 10.0
LAST_WRITE_SECONDS = 2.0
_MAX_FILE = 1_048_576  # bytes


class Heads:
    """The newest head of each node, of the `MAX_HEADS` nodes that were heard of last: a `hello` holds no more.

    Each new host of an oracle may be another node, so a relay that lives long enough sees more than that.

    Args:
        path: where they are kept; its directory exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_node: dict[str, Head] = {}  # whoever was heard of last comes last, here and in the file
        self._has_news = False

    def all(self) -> tuple[Head, ...]:
        """One head a node."""
        return tuple(self._by_node.values())

    def note(self, head: Head) -> None:
        """Take the head that a node just told; one that contradicts it is worth somebody's look."""
        known = self._by_node.get(head.node)
        if known is not None and head.sequence == known.sequence and head.hash != known.hash:
            logger.warning("the oracle's audit log was rewritten, node=%s sequence=%s", head.node, head.sequence)
        # Answers may overtake each other, so an older head is no sign of anything.
        if known is None or head.sequence > known.sequence:
            known = head
            self._tell()
        self._by_node.pop(head.node, None)
        self._by_node[head.node] = known
        if len(self._by_node) > MAX_HEADS:
            self._forget()

    def _forget(self) -> None:
        """Drop whoever was silent for the longest."""
        node = next(iter(self._by_node))
        gone = self._by_node.pop(node)
        logger.warning(
            "more nodes than a relay can know, the end of this one's audit log is forgotten, "
            "node=%s sequence=%d hash=%s",
            node, gone.sequence, gone.hash.hex(),
        )  # fmt: skip

    def welcomed(self, head: Head) -> None:
        """Take the head of a `welcome`, behind which nothing is on its way: a log that ends earlier was cut."""
        known = self._by_node.get(head.node)
        if known is not None and head.sequence < known.sequence:
            logger.warning(
                "the oracle's audit log was cut, node=%s ends=%d seen=%d", head.node, head.sequence, known.sequence
            )
        self.note(head)

    def _tell(self) -> None:
        self._has_news = True

    def load(self) -> None:
        """Read the heads of the last run."""
        self._by_node = self._read()

    def _read(self) -> dict[str, Head]:
        try:
            with self._path.open("rb") as file:
                plain: object = json.loads(file.read(_MAX_FILE))
            if isinstance(plain, dict):
                heads = structured(plain.get("heads"), tuple[Head, ...])
                return {head.node: head for head in heads[-MAX_HEADS:]}
        except FileNotFoundError:
            return {}
        except (OSError, *UNREADABLE) as error:
            logger.warning("heads not read, path=%s error=%s", self._path, error)
        return {}

    def write(self) -> None:
        """Write them if there is news since the last time; it blocks. Where it fails, the log says so."""
        if not self._has_news:
            return
        self._has_news = False
        try:
            self._put(dict(self._by_node))
        except (OSError, ConfigError) as error:
            logger.warning("heads not kept, path=%s error=%s", self._path, error)

    def _put(self, ours: dict[str, Head]) -> None:
        """Write ours and what others wrote; it blocks.

        A relay and the clients beside it share the file, and each knows only what it read at its start and heard since.
        """
        with held(self._path.with_suffix(".lock"), "writer of heads", LAST_WRITE_SECONDS):
            theirs = self._read()
            merged = {node: head for node, head in theirs.items() if node not in ours}
            merged |= {node: head.or_later(theirs.get(node)) for node, head in ours.items()}
            plain = unstructured(list(merged.values())[-MAX_HEADS:])
            write_atomically(self._path, json.dumps({"heads": plain}, indent=1).encode("ascii"), 0o644)
