"""What must be revoked, by what the registry knows. Values in, values out."""

from agentproxy.oracle.changes import CertificateRevoked, TokenRevoked
from agentproxy.oracle.credentials import CertificateEntry, Credentials

__all__ = ["certificates_named", "revocations_of"]


def revocations_of(credentials: Credentials, runner: str) -> tuple[TokenRevoked | CertificateRevoked, ...]:
    """The changes that end everything which a runner holds, also what was sent to it and not used yet.

    Those of tokens come first: credentials that replace a revoked token cannot be issued, so none come behind these.
    """
    tokens = [one.id for one in credentials.tokens.values() if one.runner == runner and one.revoked is None]
    keys = {one.public_key_sha256 for one in credentials.certificates.values() if one.runner == runner}
    alive = sorted(keys - credentials.revoked_public_keys)
    return (*map(TokenRevoked, tokens), *map(CertificateRevoked, alive))


def certificates_named(credentials: Credentials, sha256: bytes) -> tuple[CertificateEntry, ...]:
    """All certificates of one public key, by its SHA-256 or by that of one of the certificates."""
    named = credentials.certificates.get(sha256)
    key = sha256 if named is None else named.public_key_sha256
    return tuple(one for one in credentials.certificates.values() if one.public_key_sha256 == key)
