"""The built-in certificate authority: its key lies in the signer, and issuing is one request in the signer's table.

It issues end certificates only, each with a fresh key: a client's names the runner in a URI, a server's its hosts.
"""

import hashlib
import ipaddress
import re
from dataclasses import field
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import MAX_CLAIM, check_name
from agentproxy.protocol.signer_requests import CertificateKind
from agentproxy.protocol.values import frozen

__all__ = ["Authority", "IssuedCertificate", "create_authority", "runner_uri"]

_BACKDATED = timedelta(minutes=5)  # clocks of runners are not ours
_AUTHORITY_DAYS = 3660
_MAX_DAYS = 3660
# Two labels or one, without wildcards: what a client compares with the name that it dialled.
_HOST = re.compile(r"(?=.{1,253})[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)
_USAGE = {
    CertificateKind.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
    CertificateKind.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
}


@frozen
class IssuedCertificate:
    """A certificate and its key, PEM; nobody else has the key."""

    certificate: bytes
    private_key: bytes = field(repr=False)
    public_key_sha256: bytes  # 32 bytes, of the SubjectPublicKeyInfo: what a revocation names
    expires: datetime


def runner_uri(name: str) -> str:
    """The subject alternative name of a runner's certificate."""
    return f"blind-oracle:runner:{name}"


def create_authority(name: str, now: datetime) -> tuple[bytes, bytes]:
    """Make a CA: its key and its certificate, PEM. It lasts ten years and can sign end certificates only."""
    check_name(name, "name")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"{name} authority")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    end = now + timedelta(days=_AUTHORITY_DAYS)
    builder = _builder(subject, subject, key.public_key(), now - _BACKDATED, end)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _key_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


class Authority:
    """The CA, loaded.

    Args:
        key: PEM of its private key, without a passphrase.
        certificate: PEM of its certificate.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def load(cls, key_pem: bytes, certificate_pem: bytes) -> Self:
        """Read what `create_authority` made.

        Raises:
            ConfigError: damaged, not a CA, or key and certificate do not belong together.
        """
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (ValueError, TypeError, x509.ExtensionNotFound) as error:
            raise ConfigError(f"authority: not a CA's key and certificate in PEM: {type(error).__name__}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not constraints.ca:
            raise ConfigError("authority: expected the certificate of a CA and its EC key")
        if key.public_key() != certificate.public_key():
            raise ConfigError("authority: the key is not the certificate's")
        return cls(key, certificate)

    @property
    def certificate(self) -> bytes:
        """The CA's certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self, kind: CertificateKind, common_name: str, hosts: tuple[str, ...], days: int, now: datetime
    ) -> IssuedCertificate:
        """Issue a certificate with a fresh P-256 key.

        Args:
            kind: decides the extended key usage.
            common_name: the runner's or the node's name.
            hosts: DNS names and IP addresses of a server; must be empty for a client.
            days: how long it lasts, never beyond the CA itself.
            now: the present time; a server's certificate begins five minutes before.

        Raises:
            RemoteProtocolError: a bad name, host or number of days.
        """
        check_name(common_name, "common_name")
        if not 1 <= days <= _MAX_DAYS:
            raise RemoteProtocolError(f"days: expected 1 to {_MAX_DAYS}")
        names = _alternative_names(kind, common_name, hosts)
        key = ec.generate_private_key(ec.SECP256R1())
        ours = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        begin, end = self._begin(kind, now), self._end(now, days)
        builder = _builder(_name(common_name), self._certificate.subject, key.public_key(), begin, end)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_USAGE[kind]]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(ours, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _issued(key, certificate)

    def _begin(self, kind: CertificateKind, now: datetime) -> datetime:
        # Runners get new ones by themselves, also while our clock is wrong for a moment: with one that is not valid yet
        # nobody could come back when it is right again. It opens nothing before the registry has it. Not so a server's:
        # some clients refuse one that lasts for years.
        if kind is CertificateKind.CLIENT:
            return self._certificate.not_valid_before_utc
        return now - _BACKDATED

    def _end(self, now: datetime, days: int) -> datetime:
        if now >= self._certificate.not_valid_after_utc:
            raise RemoteProtocolError("the authority's certificate has expired")
        return min(now + timedelta(days=days), self._certificate.not_valid_after_utc)


def _issued(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> IssuedCertificate:
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return IssuedCertificate(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        private_key=_key_pem(key),
        public_key_sha256=hashlib.sha256(public).digest(),
        expires=certificate.not_valid_after_utc,
    )


def _alternative_names(kind: CertificateKind, common_name: str, hosts: tuple[str, ...]) -> list[x509.GeneralName]:
    if kind is CertificateKind.CLIENT:
        if hosts:
            raise RemoteProtocolError("hosts: a client's certificate has none")
        return [x509.UniformResourceIdentifier(runner_uri(common_name))]
    if not hosts or len(hosts) > 32 or len(set(hosts)) != len(hosts):
        raise RemoteProtocolError("hosts: expected 1 to 32 different names or addresses")
    # A certificate's record names all of its hosts, in one text.
    if len(",".join(hosts)) > MAX_CLAIM:
        raise RemoteProtocolError(f"hosts: expected at most {MAX_CLAIM} characters together")
    return [_host(host) for host in hosts]


def _host(untrusted: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(untrusted))
    except ValueError:
        pass
    if _HOST.fullmatch(untrusted) is None:
        expected = "expected lower-case DNS names without wildcards, or IP addresses"
        raise RemoteProtocolError(f"hosts: {expected}, got {untrusted[:64]!r}")
    return x509.DNSName(untrusted)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
