"""What `key list`, `key show` and `check` tell of the served keys; printing is left to those."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from agentproxy.oracle.policy import Policy
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.expiry import ExpiryNotice, expiry_notices
from agentproxy.protocol.values import frozen
from agentproxy.signer import keyfile, keysfile
from agentproxy.signer.keysfile import KeyEntry

__all__ = ["KeyRow", "KeyUse", "key_row", "key_rows", "key_use", "key_warnings"]


@frozen
class KeyRow:
    """One key of keys.yaml, with what an operator has to know about it."""

    name: str
    entry: KeyEntry
    has_file: bool  # whether its key file is in the signer's GnuPG home
    risks: tuple[str, ...]  # what somebody accepted by name; shown for as long as it holds
    notice: ExpiryNotice | None


@frozen
class KeyUse:
    """What the policy says of a key."""

    name: str | None = None  # the policy's name of it; None: the policy does not speak of it
    type: str = ""
    distributions: tuple[str, ...] = ()  # empty: for any
    runners: tuple[str, ...] = ()  # who may use it


def key_use(policy: Policy, entry: KeyEntry) -> KeyUse:
    """Who may use a key, and for what."""
    name = policy.name_of(entry.fingerprint)
    if name is None:
        return KeyUse()
    rule = policy.keys[name]
    runners = tuple(runner for runner, allowed in policy.runners.items() if name in allowed.keys)
    return KeyUse(name, rule.type, rule.distributions, runners)


def key_rows(keys_file: Path, gnupg_home: Path, now: datetime) -> list[KeyRow]:
    """All served keys, in the order of the file.

    Raises:
        ConfigError: keys.yaml cannot be read or is wrong.
    """
    return [_row(name, entry, gnupg_home, now) for name, entry in keysfile.load(keys_file).keys.items()]


def key_row(keys_file: Path, gnupg_home: Path, name: str, now: datetime) -> KeyRow:
    """One served key.

    Raises:
        ConfigError: there is no such key, or keys.yaml cannot be read.
    """
    keys = keysfile.load(keys_file).keys
    if name not in keys:
        raise ConfigError(f"{keys_file}: no key {name}", f"known: {', '.join(keys) or 'none'}")
    return _row(name, keys[name], gnupg_home, now)


def key_warnings(rows: Iterable[KeyRow]) -> list[str]:
    """One sentence for each thing that somebody should look at."""
    found = []
    for row in rows:
        if row.notice is not None:
            found.append(str(row.notice))
        if not row.has_file:
            found.append(f"key {row.name} has no key file in the signer's GnuPG home")
        found += [f"key {row.name} {risk}" for risk in row.risks]
    return found


def _row(name: str, entry: KeyEntry, gnupg_home: Path, now: datetime) -> KeyRow:
    notices = expiry_notices({f"key {name}": entry.expires}, now)
    return KeyRow(
        name=name,
        entry=entry,
        has_file=keyfile.key_path(gnupg_home, entry.keygrip).is_file(),
        risks=tuple(_risks(entry)),
        notice=notices[0] if notices else None,
    )


def _risks(entry: KeyEntry) -> Iterable[str]:
    if entry.can_certify and entry.seal_only:
        yield "can certify; it is served for seal only"
    elif entry.can_certify:
        yield "can certify, which was accepted: a signature of it may change certificates"
    broken = [algorithm.name.lower() for algorithm in entry.hash_algorithms if algorithm.is_broken]
    if broken:
        yield f"signs broken digests, which was accepted: {', '.join(broken)}"
