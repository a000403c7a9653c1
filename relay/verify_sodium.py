"""Checks of Ed25519 signatures for hosts that have PyNaCl; `relay.verify` imports this when it needs it.

Without `cryptography`, whose import takes longer than a new relay's whole way to the oracle and back.
"""

import functools

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.keys import EccPublicKey
from agentproxy.protocol.signatures import EddsaSignature, Signature
from agentproxy.runtime.sodium import SodiumKey

__all__ = ["is_good"]

_loaded = functools.lru_cache(maxsize=64)(SodiumKey)


def is_good(public_key: EccPublicKey, digest: Digest, signature: Signature) -> bool:
    """Whether `signature` is the Ed25519 key's own over `digest`."""
    if not isinstance(signature, EddsaSignature):
        return False
    try:
        # gpg signs the digest's bytes as the message of pure EdDSA, whatever algorithm made them.
        _loaded(public_key.q).verify(signature.r + signature.s, digest.value)
    except ValueError:
        return False
    return True
