"""The signer's own list of keys, keys.yaml: which keys exist, with which hash algorithms and which accepted risks.

It belongs to root and the signer alone reads it, so an oracle that was taken over cannot widen it. This module
judges what stands in the file; `keyring` then opens the keys.
"""

import enum
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import datetime
from pathlib import Path

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import check_name, check_text
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.values import frozen
from agentproxy.runtime import config

__all__ = ["KeyEntry", "KeyUsage", "KeysFile", "Problem", "load", "problems", "refusal"]

DEFAULT_ALGORITHMS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class KeyUsage(enum.StrEnum):
    """What the key flags of an OpenPGP key allow (RFC 9580, 5.2.3.29)."""

    CERTIFY = "certify"
    SIGN = "sign"
    ENCRYPT = "encrypt"
    AUTHENTICATE = "authenticate"


@frozen
class KeyEntry:
    """One key of keys.yaml, as `blind-oracle key import` wrote it."""

    fingerprint: Fingerprint  # of the key that signs
    primary: Fingerprint  # of the certificate it stands in
    keygrip: Keygrip
    usage: tuple[KeyUsage, ...]
    created: datetime
    expires: datetime | None = None
    user_id: str = ""
    hash_algorithms: tuple[HashAlgorithm, ...] = DEFAULT_ALGORITHMS  # broken ones only when somebody named them here
    accept_certification: bool = False
    seal_only: bool = False

    def __post_init__(self) -> None:
        check_text(self.user_id, "user_id")
        if not self.hash_algorithms or len(set(self.hash_algorithms)) != len(self.hash_algorithms):
            raise RemoteProtocolError("hash_algorithms: expected at least one, each once")
        if KeyUsage.SIGN not in self.usage:
            raise RemoteProtocolError("usage: expected sign among them")

    @property
    def can_certify(self) -> bool:
        """Whether a signature by this key may certify other keys."""
        return KeyUsage.CERTIFY in self.usage


@frozen
class KeysFile:
    """keys.yaml: keys under the names that policies and relays use."""

    keys: dict[str, KeyEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.keys:
            check_name(name, "key name")


@frozen
class Problem:
    """Something that keeps keys from being served: where it stands, what it is, what to do."""

    place: str
    reason: str
    hint: str = ""


def refusal(problems: list[Problem]) -> ConfigError:
    """All problems as one error: one line each, hints in the same order."""
    lines = [f"{problem.place}: {problem.reason}" for problem in problems]
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    return ConfigError("\n".join(lines), "\n".join(hints))


def load(path: Path) -> KeysFile:
    """Read keys.yaml; `problems` judges it.

    Raises:
        ConfigError: not readable, writable by others, or not of this form.
    """
    try:
        status = path.stat()
    except OSError as error:
        hint = "blind-oracle key import FILE --name NAME writes it"
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint) from error
    if status.st_mode & _WRITABLE_BY_OTHERS or status.st_uid not in {0, os.geteuid()}:
        raise ConfigError(f"{path}: others may change it", f"chown root {path}; chmod go-w {path}")
    try:
        return config.load(path, KeysFile)
    except ConfigError as error:
        hint = error.hint or "mend it, or restore it from the backup; blind-oracle key import writes entries"
        raise ConfigError(str(error), hint) from error


def problems(keys: Mapping[str, KeyEntry], source: str, now: datetime) -> Iterator[Problem]:
    """What is wrong with the keys by themselves: expiry, accepted risks, doubles.

    Args:
        keys: the entries under their names.
        source: the file's name, for the messages.
        now: the present time.
    """
    seen: dict[Keygrip, str] = {}
    for name, entry in keys.items():
        place = f"{source}: keys.{name}"
        if entry.expires is not None and entry.expires <= now:
            hint = "extend it (gpg --quick-set-expire), export it and import it again, or remove the entry"
            yield Problem(f"{place}.expires", f"the key expired on {entry.expires:%Y-%m-%d}", hint)
        if entry.created > now:
            hint = "the clock may be wrong: timedatectl shows it"
            yield Problem(f"{place}.created", f"the key begins on {entry.created:%Y-%m-%d} only", hint)
        if entry.can_certify and not (entry.accept_certification or entry.seal_only):
            reason = "the key can certify, so whoever gets signatures from it could change certificates"
            hint = f"serve a signing subkey instead, or set seal_only or accept_certification for {name}"
            yield Problem(f"{place}.usage", reason, hint)
        if entry.keygrip in seen:
            yield Problem(f"{place}.keygrip", f"the same key as {seen[entry.keygrip]}", "remove one of the two entries")
        seen.setdefault(entry.keygrip, name)
