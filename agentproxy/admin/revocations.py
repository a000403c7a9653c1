"""What must be revoked, by what the registry knows. Values in, values out."""

from agentproxy.oracle.credentials import CertificateEntry, Credentials

__all__ = ["certificates_named"]


def certificates_named(credentials: Credentials, sha256: bytes) -> tuple[CertificateEntry, ...]:
    """All certificates of one public key, by its SHA-256 or by that of one of the certificates."""
    named = credentials.certificates.get(sha256)
    key = sha256 if named is None else named.public_key_sha256
    return tuple(one for one in credentials.certificates.values() if one.public_key_sha256 == key)
