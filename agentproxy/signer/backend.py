"""What every kind of key storage can do; `tests/signer` has the contract test that each of them passes."""

from typing import Protocol

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.keys import Keygrip, PublicKey
from agentproxy.protocol.signatures import Signature

__all__ = ["Backend"]


class Backend(Protocol):
    """Keys that can sign. All methods are safe to call from several threads at once."""

    def keygrips(self) -> frozenset[Keygrip]:
        """The keys that are here; constant for the life of the object."""
        ...

    def public_key(self, keygrip: Keygrip) -> PublicKey:
        """The public half of a key.

        Raises:
            KeyUnavailableError: the key is not here.
        """
        ...

    def sign(self, keygrip: Keygrip, digest: Digest) -> Signature:
        """Sign the digest. It blocks, for milliseconds or, with a device, for seconds; call it from a signing thread.

        The caller checks the signature (`verify.check`) before it leaves the process.

        Raises:
            KeyUnavailableError: the key is not here, or cannot sign this digest.
            BackendError: it did not work this time.
        """
        ...
