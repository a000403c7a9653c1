"""Whether the oracle signed what it was asked to sign, with the key that was asked for."""

from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.openpgp import DocumentSignature
from relay.sealed.errors import NotSealedError
from relay.sealed.states import finished
from relay.verify_compiled import is_good

__all__ = ["check"]


def check(key: ServedKey, state: HashState, seal: DocumentSignature) -> None:
    """Raise NotSealedError unless this is the key's own signature over the document behind `state`."""
    if seal.fingerprint != key.facts.fingerprint:
        raise NotSealedError(f"the oracle signed with {seal.fingerprint}, not with {key.facts.fingerprint}")
    if seal.digest != finished(state, seal.trailer):
        raise NotSealedError("the oracle signed something else than it was asked for")
    if not is_good(key.facts.public_key, seal.digest, seal.signature):
        raise NotSealedError("the oracle's signature is wrong")
