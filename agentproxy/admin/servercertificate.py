"""The oracle's own TLS certificate: which names it is for, and a new one from the CA in the signer."""

import contextlib
import os
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from agentproxy.admin.changing import changing
from agentproxy.admin.signeraccess import ask, signer_for
from agentproxy.oracle.config import OracleConfig
from agentproxy.protocol.errors import BackendError, ConfigError
from agentproxy.protocol.fields import Asserted, Claims
from agentproxy.protocol.signer_answers import Issued
from agentproxy.protocol.signer_requests import CertificateKind, Issue
from agentproxy.runtime.files import sync_directory, written_beside

__all__ = ["HINT", "hosts_of", "misfits", "renew"]

HINT = "blind-oracle certificate renew; docs/OPERATIONS.md, Certificates"


def hosts_of(certificate: Path) -> tuple[str, ...]:
    """The names and addresses that a certificate is for, in its order, in lower case.

    Raises:
        ConfigError: it cannot be read, or has none.
    """
    try:
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(f"{certificate}: no certificate with names: {error}", HINT) from error
    found = (name.value for name in names if isinstance(name, x509.DNSName | x509.IPAddress))
    return tuple(str(host).lower() for host in found)


def misfits(certificate: Path, authority: Path) -> str:
    """Why a relay that trusts this CA turns the certificate away; empty when it does not.

    Raises:
        ConfigError: one of them cannot be read.
    """
    try:
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
        issuers = x509.load_pem_x509_certificates(authority.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{certificate}, {authority}: expected certificates in PEM: {error}", HINT) from error
    for issuer in issuers:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            parsed.verify_directly_issued_by(issuer)
            return ""
    return f"{certificate}: not issued by the CA in {authority}, so build servers are turned away, or turn away"


def renew(oracle: OracleConfig, hosts: tuple[str, ...], days: int) -> datetime:
    """Put a new key and certificate in place of the oracle's; the signer records it. Returns when it ends.

    Raises:
        ConfigError: the signer does not issue it, or the files cannot be written.
    """
    asserted = Asserted(channel="cli", claims=Claims(uid=os.getuid(), pid=os.getpid()))
    request = Issue(0, CertificateKind.SERVER, oracle.node, hosts, days, asserted)
    # Of two at once, the key of one and the certificate of the other could stay.
    with changing(oracle.tls.key), signer_for(oracle) as path:
        issued = _issued(path, request)
        try:
            _replace_both(oracle.tls.key.resolve(), oracle.tls.certificate.resolve(), issued)
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be written: {error.strerror}") from error
    return issued.expires


def _issued(signer: Path, request: Issue) -> Issued:
    try:
        issued = ask(signer, request)
    except BackendError as error:
        raise ConfigError(f"the signer refuses: {error}") from error
    if not isinstance(issued, Issued):
        raise ConfigError(f"the signer answered {issued.tag} for a certificate")
    return issued


def _replace_both(key: Path, certificate: Path, issued: Issued) -> None:
    # An oracle does not start with a key and another's certificate, so both are on disk before either takes its place.
    with (
        written_beside(key, issued.private_key.encode("ascii"), 0o600) as new_key,
        written_beside(certificate, issued.certificate.encode("ascii"), 0o644) as new_certificate,
    ):
        new_key.replace(key)
        try:
            new_certificate.replace(certificate)
        except OSError as error:
            raise ConfigError(
                f"{certificate}: cannot be replaced: {error.strerror}; {key} is new already: no oracle starts so",
                "find out why, then again, with --host: blind-oracle certificate renew",
            ) from error
    for directory in {key.parent, certificate.parent}:
        sync_directory(directory)
