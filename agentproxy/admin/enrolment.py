"""Adds a build server: certificate and token, recorded first, then in the registry, then in one file for it."""

import base64
import getpass
import hashlib
import json
import os
import secrets
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agentproxy.admin.signeraccess import ask, signer_for
from agentproxy.oracle.config import OracleConfig, parse_address
from agentproxy.oracle.registry import Registry
from agentproxy.protocol.errors import BackendError, ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Asserted, Claims, check_name
from agentproxy.protocol.signer_messages import CertificateKind, FromSigner, Issue, Issued, Outcome, Record, ToSigner
from agentproxy.protocol.wire import format_time

__all__ = ["Enrolled", "enrol"]

_TOKEN_BYTES = 32
_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not bound


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A runner's credentials; nobody but the enrolment file keeps token and key."""

    runner: str
    token: str = field(repr=False)
    issued: Issued
    expires: datetime

    @property
    def token_sha256(self) -> bytes:
        """What the registry knows of the token."""
        return hashlib.sha256(self.token.encode()).digest()

    @property
    def certificate_sha256(self) -> bytes:
        """SHA-256 of the certificate's DER form."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.issued.certificate)).digest()


def enrol(oracle: OracleConfig, name: str, days: int) -> bytes:
    """Add a runner with credentials for `days`, and give the one file that it gets: JSON, secret.

    Raises:
        ConfigError: the name is bad or taken, nobody told where build servers reach this oracle, or the signer does
            not issue.
    """
    addresses = _addresses(oracle)
    return _file(addresses, _add_runner(oracle, name, days))


def _add_runner(oracle: OracleConfig, name: str, days: int) -> Enrolled:
    """Issue certificate and token; the audit log knows first, then the registry."""
    try:
        check_name(name, "runner")
    except RemoteProtocolError as error:
        raise ConfigError(str(error)) from error
    registry = Registry.open(oracle.registry)
    try:
        if name in registry.snapshot().runners:
            raise ConfigError(f"runner {name} exists already", "choose another name for another build server")
        asserted = Asserted(runner=name, channel="cli", claims=_operator())
        with signer_for(oracle) as path:
            enrolled = _issue(path, name, days, asserted)
            _ask(path, _record(enrolled, asserted))
        registry.add_runner(name)
        registry.add_certificate(
            name, enrolled.certificate_sha256, enrolled.issued.public_key_sha256, enrolled.issued.expires
        )
        registry.add_token(name, enrolled.token_sha256, enrolled.expires)
    finally:
        registry.close()
    return enrolled


def _issue(path: Path, name: str, days: int, asserted: Asserted) -> Enrolled:
    issued = _ask(path, Issue(0, CertificateKind.CLIENT, name, (), days, asserted))
    if not isinstance(issued, Issued):
        raise ConfigError(f"the signer answered {issued.tag} for a certificate")
    token = "bo_" + base64.urlsafe_b64encode(secrets.token_bytes(_TOKEN_BYTES)).rstrip(b"=").decode("ascii")
    return Enrolled(name, token, issued, min(issued.expires, datetime.now(UTC) + timedelta(days=days)))


def _record(enrolled: Enrolled, asserted: Asserted) -> Record:
    """Everything that the registry will hold, so that a lost registry can be made again from the log."""
    details = {
        "token_sha256": enrolled.token_sha256.hex(),
        "token_expires": format_time(enrolled.expires),
        "certificate_sha256": enrolled.certificate_sha256.hex(),
        "public_key_sha256": enrolled.issued.public_key_sha256.hex(),
        "certificate_expires": format_time(enrolled.issued.expires),
    }
    return Record(0, "runner_added", Outcome.DONE, "", asserted, details=details)


def _ask(path: Path, request: ToSigner) -> FromSigner:
    try:
        return ask(path, request)
    except BackendError as error:
        raise ConfigError(f"the signer refuses: {error}") from error


def _operator() -> Claims:
    """Who runs this command, as far as the process knows."""
    user = None
    with suppress(OSError, KeyError, ImportError):  # a uid without a name
        user = getpass.getuser()
    return Claims(uid=os.getuid(), user=user, pid=os.getpid())


def _file(addresses: tuple[str, ...], enrolled: Enrolled) -> bytes:
    oracles = [{"address": address, "server_name": parse_address(address).host} for address in addresses]
    content = {
        "format": "blind-oracle enrolment 1",
        "runner": enrolled.runner,
        "oracles": oracles,
        "authority": enrolled.issued.authority,
        "certificate": enrolled.issued.certificate,
        "private_key": enrolled.issued.private_key,
        "token": enrolled.token,
        "expires": format_time(enrolled.expires),
    }
    return json.dumps(content, indent=2).encode("ascii") + b"\n"


def _addresses(oracle: OracleConfig) -> tuple[str, ...]:
    if oracle.addresses:
        return oracle.addresses
    listen = parse_address(oracle.listen)
    if listen.host in _ANYWHERE:
        raise ConfigError(
            "addresses: expected what build servers dial, since the oracle listens everywhere",
            'add to oracle.yaml, with a name from the server\'s certificate: addresses: ["oracle.example.org:7443"]',
        )
    if listen.port:
        return (oracle.listen,)
    try:
        return (oracle.bound_address_file.read_text(encoding="ascii").strip(),)
    except OSError as error:
        raise ConfigError("listen: port 0 becomes a number only when the oracle runs", "start it first") from error
