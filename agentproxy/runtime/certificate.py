"""When a certificate ends, read from its DER form: relay and oracle load no library for X.509.

Source: RFC 5280, 4.1 (Certificate, Validity) and X.690, 8.1 (tags and lengths). Nothing is verified here.
"""

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.protocol.errors import ConfigError

__all__ = ["expires", "file_expires"]

_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0
_FORMS = {0x17: re.compile(rb"\d{12}Z"), 0x18: re.compile(rb"\d{14}Z")}  # UTCTime, GeneralizedTime
_FIRST_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_MAX_BYTES = 1 << 20


def file_expires(path: Path) -> datetime:
    """The end of the first certificate in a PEM file.

    Raises:
        ConfigError: it cannot be read or holds no certificate.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    found = _FIRST_PEM.search(text)
    try:
        return expires(ssl.PEM_cert_to_DER_cert(found.group() if found else ""))
    except ValueError as error:
        raise ConfigError(f"{path}: expected a certificate in PEM") from error


def expires(untrusted: bytes) -> datetime:
    """The end of a certificate in DER.

    Raises:
        ValueError: it is no certificate.
    """
    signed, _ = _value(untrusted, _SEQUENCE, _SEQUENCE)  # TBSCertificate
    if signed[:1] == bytes([_VERSION]):
        _, signed = _element(signed)
    _, rest = _value(signed, _INTEGER)
    for _ in ("signature", "issuer"):
        _, rest = _value(rest, _SEQUENCE)
    validity, _ = _value(rest, _SEQUENCE)
    _, not_after = _element(validity)
    (tag, text), _ = _element(not_after)
    if tag not in _FORMS or _FORMS[tag].fullmatch(text) is None:
        raise ValueError("expected a time")
    if len(text) == 13:
        # Years of two digits are 1950 to 2049 (RFC 5280, 4.1.2.5.1).
        text = (b"19" if text >= b"50" else b"20") + text
    return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _value(data: bytes, *tags: int) -> tuple[bytes, bytes]:
    """The content of the first element, and of the first element in that for each further tag; and what follows it."""
    rest = b""
    for tag in tags:
        (found, data), rest = _element(data)
        if found != tag:
            raise ValueError("not a certificate")
    return data, rest


def _element(data: bytes) -> tuple[tuple[int, bytes], bytes]:
    """Tag and content of the first element, and what follows it."""
    if len(data) < 2:
        raise ValueError("cut off")
    start, length = 2, data[1]
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if start > 6 or len(data) < start + length:
        raise ValueError("cut off")
    return (data[0], data[start : start + length]), data[start + length :]
