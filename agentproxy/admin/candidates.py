"""Which key of an imported certificate shall sign: read from gpg's listing, judged, and exactly one chosen."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.values import frozen
from agentproxy.signer.keysfile import KeyUsage

__all__ = ["Candidate", "candidates", "choose"]

_SECONDS = re.compile(r"[0-9]{1,10}", re.ASCII)
_USAGES = {
    "c": KeyUsage.CERTIFY,
    "s": KeyUsage.SIGN,
    "e": KeyUsage.ENCRYPT,
    "a": KeyUsage.AUTHENTICATE,
}
_VALIDITIES = {"i": "invalid", "d": "disabled", "r": "revoked", "e": "expired"}  # doc/DETAILS, field 2
_SECRET_IS_HERE = "+"  # noqa: S105  doc/DETAILS, field 15; `#` is a missing secret part, a serial number one on a card
_MAX_USER_ID = 256


@frozen
class Candidate:
    """A key that can sign and whose secret part is here."""

    fingerprint: Fingerprint
    primary: Fingerprint
    keygrip: Keygrip
    usage: tuple[KeyUsage, ...]
    created: datetime
    expires: datetime | None  # the earlier of the key's and its primary's end
    user_id: str
    fault: str  # what gpg says against it: revoked, expired, …; empty when it is fine

    @property
    def can_certify(self) -> bool:
        """Whether its signatures may certify other keys."""
        return KeyUsage.CERTIFY in self.usage

    def __str__(self) -> str:
        notes = [usage.value for usage in self.usage]
        notes += [self.fault] if self.fault else []
        return f"{self.fingerprint} ({', '.join(notes)})"


def candidates(listing: Sequence[Mapping[str, object]]) -> list[Candidate]:
    """The candidates in python-gnupg's listing of secret keys."""
    found = []
    for primary in listing:
        subkeys = primary.get("subkey_info")
        rows = [primary, *(subkeys.values() if isinstance(subkeys, dict) else ())]
        found += [_candidate(row, primary) for row in rows if _can_sign(row)]
    return found


def choose(found: Sequence[Candidate], fingerprint: Fingerprint | None, *, accept_certification: bool) -> Candidate:
    """The one key to serve.

    Args:
        found: as `candidates` gives them.
        fingerprint: the operator's choice among several.
        accept_certification: whether a key that can certify may be chosen.

    Raises:
        ConfigError: none, several, or one that may not be served.
    """
    if fingerprint is not None:
        found = [candidate for candidate in found if candidate.fingerprint == fingerprint]
    if not found:
        wanted = f" {fingerprint}" if fingerprint else ""
        hint = "gpg --export-secret-subkeys KEYID! exports a signing subkey; gpg -K marks missing secret parts with #"
        raise ConfigError(f"no key{wanted} with the flag sign and its secret part", hint)
    usable = [each for each in found if not each.fault and (accept_certification or not each.can_certify)]
    if len(usable) == 1:
        return usable[0]
    if usable:
        listed = "\n".join(f"  {candidate}" for candidate in usable)
        raise ConfigError(f"several keys can sign:\n{listed}", "choose one with `key import --fingerprint`")
    raise _refusal(found)


def _refusal(found: Sequence[Candidate]) -> ConfigError:
    certifying = [candidate for candidate in found if not candidate.fault]
    if certifying:
        return ConfigError(
            f"the key can certify, so whoever gets signatures from it could change certificates: {certifying[0]}",
            "import a signing subkey (gpg --export-secret-subkeys KEYID!), or `key import --accept-certification`",
        )
    listed = "\n".join(f"  {candidate}" for candidate in found)
    hint = "gpg --quick-set-expire extends a key; export it again afterwards"
    return ConfigError(f"no key that can still sign:\n{listed}", hint)


def _can_sign(row: Mapping[str, object]) -> bool:
    # Lower-case letters are the key's own flags, upper-case ones those of the whole certificate.
    return "s" in _text(row, "cap") and _text(row, "token") == _SECRET_IS_HERE


def _candidate(row: Mapping[str, object], primary: Mapping[str, object]) -> Candidate:
    ends = [end for end in (_moment(row, "expires"), _moment(primary, "expires")) if end is not None]
    faults = [_VALIDITIES.get(_text(each, "trust"), "") for each in (row, primary)]
    created = _moment(row, "date")
    if created is None:
        raise ConfigError("gpg lists a key without its date")
    uids = primary.get("uids")
    # From the bytes that gpg said, see `scratch_home`.
    user_id = str(uids[0]).encode("latin-1").decode("utf-8", "replace") if isinstance(uids, list) and uids else ""
    return Candidate(
        fingerprint=Fingerprint.parse(_text(row, "fingerprint")),
        primary=Fingerprint.parse(_text(primary, "fingerprint")),
        keygrip=Keygrip.parse(_text(row, "keygrip")),
        usage=tuple(usage for letter, usage in _USAGES.items() if letter in _text(row, "cap")),
        created=created,
        expires=min(ends, default=None),
        user_id="".join(character for character in user_id if character.isprintable())[:_MAX_USER_ID],
        fault=next((fault for fault in faults if fault), ""),
    )


def _text(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _moment(row: Mapping[str, object], name: str) -> datetime | None:
    value = _text(row, name)
    if not value:
        return None
    if _SECONDS.fullmatch(value) is None:
        raise ConfigError(f"gpg lists a key with an unreadable date in {name}")
    return datetime.fromtimestamp(int(value), UTC)
