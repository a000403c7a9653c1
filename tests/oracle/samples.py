"""Values that the oracle's tests share."""

import hashlib
from datetime import UTC, datetime

from agentproxy.oracle.caller import Caller
from agentproxy.oracle.policy import KeyRule, Policy, RunnerRule
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.fields import Head, KeyFacts
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.keys import Curve, EccPublicKey, Fingerprint, PublicKey, RsaPublicKey
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.seal_messages import Seal
from agentproxy.protocol.signatures import RsaSignature

NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
ALL_HASHES = tuple(HashAlgorithm)


def facts(name: str, public_key: PublicKey, *, seal_only: bool = False) -> KeyFacts:
    fingerprint = Fingerprint(hashlib.sha256(name.encode()).digest()[:20])
    return KeyFacts(
        name=name,
        fingerprint=fingerprint,
        primary=fingerprint,
        keygrip=public_key.keygrip,
        public_key=public_key,
        hash_algorithms=ALL_HASHES,
        can_certify=False,
        created=NOW,
        seal_only=seal_only,
    )


MODERN = facts("modern", RsaPublicKey(n=b"\xc1" + bytes(510) + b"\x01", e=b"\x01\x00\x01"))
LEGACY = facts("legacy", RsaPublicKey(n=b"\xc3" + bytes(254) + b"\x01", e=b"\x01\x00\x01"))
SMALL = facts("small", EccPublicKey(Curve.ED25519, bytes(32)))
SEALED = facts("sealed", RsaPublicKey(n=b"\xc5" + bytes(254) + b"\x01", e=b"\x01\x00\x01"), seal_only=True)
SERVED = (MODERN, LEGACY, SMALL, SEALED)


def policy(**runners: RunnerRule) -> Policy:
    """Keys modern (any distribution), legacy (el7-*), small (el10-*, sha256 only) and sealed; the given runners."""
    return Policy(
        keys={
            "modern": KeyRule(MODERN.fingerprint, "modern"),
            "legacy": KeyRule(LEGACY.fingerprint, "legacy", ("el7-*",)),
            "small": KeyRule(SMALL.fingerprint, "modern", ("el10-*",), (HashAlgorithm.SHA256,)),
            "sealed": KeyRule(SEALED.fingerprint, "legacy"),
        },
        runners=runners or {"build-01": RunnerRule(("modern", "legacy", "small", "sealed"))},
    )


def caller(runner: str = "build-01", token: str = "a" * 12) -> Caller:
    return Caller(runner=runner, token=token, address="10.1.2.3:40000", certificate="00" * 32)


def digest(text: str = "package", algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> Digest:
    return Digest(algorithm, hashlib.new(algorithm.name.lower(), text.encode()).digest())


def sign(
    number: int = 1,
    key: KeyFacts = MODERN,
    *,
    remaining_ms: int = 30_000,
    distribution: str | None = None,
    text: str | None = None,
) -> Sign:
    return Sign(
        id=f"{number:032x}",
        keygrip=key.keygrip,
        digest=digest(text or f"package {number}"),
        remaining_ms=remaining_ms,
        distribution=distribution,
    )


def seal(
    number: int = 1,
    key: KeyFacts = MODERN,
    *,
    algorithm: HashAlgorithm = HashAlgorithm.SHA256,
    distribution: str | None = None,
    text: str | None = None,
) -> Seal:
    state = HashState.initial(algorithm).updated((text or f"package {number}").encode())
    return Seal(f"{number:032x}", key.keygrip, state, 30_000, distribution)


def head(sequence: int = 1) -> Head:
    return Head("node", sequence, bytes(32))


def signature() -> RsaSignature:
    return RsaSignature(b"\x01")
