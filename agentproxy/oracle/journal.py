"""The registry's journal: the audit log, reached through the signer."""

from collections.abc import Callable

from agentproxy.oracle.changes import Change, details_of
from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.signer_answers import CredentialRecords, Keys, Recorded
from agentproxy.protocol.signer_messages import FromSigner, ToSigner
from agentproxy.protocol.signer_requests import ListCredentialRecords, ListKeys, Outcome, Record
from agentproxy.protocol.values import frozen

__all__ = ["SignerJournal"]


@frozen
class SignerJournal:
    """Asks a signer; fits `agentproxy.oracle.registry.Journal`.

    Attributes:
        ask: sends a request under an id of its own, blocks until the answer, raises SignerError when it was not done.
        asserted: who makes the changes.
    """

    ask: Callable[[ToSigner], FromSigner]
    asserted: Asserted

    def node(self) -> str:
        """The signer's own name, which stands in its records."""
        answer = self.ask(ListKeys(0))
        if not isinstance(answer, Keys):
            raise BackendError(f"the signer sent {answer.tag} for keys")
        return answer.node

    def write(self, change: Change) -> int:
        """Have a change recorded durably."""
        record = Record(0, change.operation, Outcome.DONE, "", self.asserted, details=details_of(change))
        answer = self.ask(record)
        if not isinstance(answer, Recorded):
            raise BackendError(f"the signer sent {answer.tag} for a record")
        return answer.head.sequence

    def read(self, after: int) -> CredentialRecords:
        """What the log says about credentials behind a record."""
        answer = self.ask(ListCredentialRecords(0, after))
        if not isinstance(answer, CredentialRecords):
            raise BackendError(f"the signer sent {answer.tag} for records")
        return answer
