"""TLS 1.3 with certificates on both sides, and nothing that would let a revoked peer back in without one.

Resumption is off: a session ticket would outlive the check of the client's certificate.
"""

import os
import re
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from agentproxy.protocol.errors import ConfigError

__all__ = ["client_context", "explain", "server_context", "tls_reason"]

_BY_TIME = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID and …_HAS_EXPIRED, x509_vfy.h

# What the peer's alert means to somebody who has to do something about it. With TLS 1.3 a client learns only at its
# first read that the server did not accept its certificate (RFC 8446, 4.4.2.4 and 6.2).
_ALERTS = {
    "CERTIFICATE_REQUIRED": "the other side wants a client certificate and got none",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other side wants a client certificate and got none",
    "TLSV1_ALERT_UNKNOWN_CA": "the other side does not know this certificate: another authority issued it",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the other side says that this certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the other side says that this certificate is revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the other side does not accept this certificate (not valid yet, by its clock?)",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the other side does not accept this certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the other side says that this certificate is for another purpose",
    "TLSV1_ALERT_DECRYPT_ERROR": "the other side could not verify this certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the other side does not speak TLS 1.3",
    "UNSUPPORTED_PROTOCOL": "the other side does not speak TLS 1.3",
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client sent no certificate",
}


def server_context(certificate: Path, key: Path, clients: Path) -> ssl.SSLContext:
    """Serve with `certificate` (PEM, with its chain) and demand a client certificate that `clients` issued.

    Raises:
        ConfigError: a file is missing, is not PEM, needs a passphrase, or key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    return _completed(context, certificate, key, clients)


def client_context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Connect with `certificate`, and only to a server whose certificate `authority` issued for the name we asked for.

    Raises:
        ConfigError: as in `server_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    return _completed(context, certificate, key, authority)


def _completed(context: ssl.SSLContext, certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # Python before 3.11.3, Debian 12's too, takes a cut connection for an orderly end: whoever can cut it could shorten
    # what is said.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    for file in (certificate, key, authority):
        _check_readable(file)
    try:
        # Without a callback OpenSSL would ask on the terminal, and a daemon would hang.
        context.load_cert_chain(certificate, key, password=_no_passphrase(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            hint = f"{certificate} belongs to another key"
            raise ConfigError(f"{key}: not the PEM key of the certificate", hint) from error
        # OpenSSL does not tell in which of the two it stumbled.
        raise ConfigError(f"{certificate}, {key}: expected a certificate and its key in PEM") from error
    except OSError as error:  # gone since we looked: somebody renews them just now
        raise ConfigError(f"{certificate}, {key}: cannot be read: {error.strerror}") from error
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError as error:
        raise ConfigError(f"{authority}: expected certificates in PEM: {error.reason}") from error
    except OSError as error:
        raise ConfigError(f"{authority}: cannot be read: {error.strerror}") from error
    return context


def _check_readable(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error


def _no_passphrase(key: Path) -> Callable[[], str]:
    def refuse() -> NoReturn:
        hint = f"openssl pkey -in {key} -out NEW removes it"
        raise ConfigError(f"{key}: expected a key without a passphrase", hint)

    return refuse


def tls_reason(error: ssl.SSLError) -> str:
    """OpenSSL's words for an error: the name of its reason, or where it has none, its text without the place."""
    return error.reason or re.sub(r"^\[SSL\] | \(_ssl\.c:[0-9]+\)$", "", error.strerror or "") or type(error).__name__


def _clock(verify_code: int) -> str:
    """For a certificate that is not valid at this time: which time that is, since the clock may be what is wrong."""
    return f"; this host's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC" if verify_code in _BY_TIME else ""


def explain(error: BaseException) -> str:
    """Say in a sentence's part what went wrong with a connection: TLS's own reason if one lies below `error`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate of the other side is not good: {cause.verify_message}{_clock(cause.verify_code)}"
        if isinstance(cause, ssl.SSLError):
            return _ALERTS.get(cause.reason or "", f"TLS failed: {tls_reason(cause)}")
        if isinstance(cause, OSError) and cause.errno and not isinstance(cause, socket.gaierror):
            return os.strerror(cause.errno)  # trio's own words name the address, which stands beside this anyway
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        # Where a name has several addresses, trio tells what each of them said: the last is as good as any.
        cause = cause.exceptions[-1] if isinstance(cause, BaseExceptionGroup) else cause.__cause__
    return str(error) or "the connection broke"
