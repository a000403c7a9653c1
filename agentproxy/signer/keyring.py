"""The keys that the signer serves: judged, opened and ready to sign; a reload makes a new one or keeps the old one."""

import stat
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from agentproxy.protocol.errors import ConfigError, KeyUnavailableError
from agentproxy.protocol.fields import Head, KeyFacts
from agentproxy.protocol.frames import MAX_PAYLOAD
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.signer_answers import Keys
from agentproxy.protocol.signer_messages import FROM_SIGNER
from agentproxy.protocol.values import frozen
from agentproxy.signer import keyfile, keysfile, passphrases
from agentproxy.signer.backend import Backend
from agentproxy.signer.config import SignerConfig
from agentproxy.signer.keysfile import KeyEntry, Problem
from agentproxy.signer.secretkey import SecretKey
from agentproxy.signer.software import SoftwareBackend
from agentproxy.signer.strength import smallest_digest

__all__ = ["Keyring", "open_keyring"]


@frozen
class Keyring:
    """What may be signed with, and by what; both halves name the same keys."""

    facts: Mapping[Keygrip, KeyFacts]
    backend: Backend


def open_keyring(config: SignerConfig, now: datetime) -> Keyring:
    """Read keys.yaml and open every key in it. It blocks for up to a second for each protected key.

    Raises:
        ConfigError: every problem of every key, with file, place, reason and hint. Nothing is half open then.
    """
    keys = keysfile.load(config.keys_file).keys
    problems = list(keysfile.problems(keys, str(config.keys_file), now))
    problems += _directory_problems(config.gnupg_home)
    opened: dict[Keygrip, SecretKey] = {}
    facts: dict[Keygrip, KeyFacts] = {}
    for name, entry in keys.items():
        place = f"{config.keys_file}: keys.{name}"
        try:
            key = _open(config, name, entry)
            facts[entry.keygrip] = _facts(name, entry, key)
            opened[entry.keygrip] = key
        except (ConfigError, KeyUnavailableError) as error:
            problems.append(Problem(place, str(error), error.hint or _key_hint(name)))
    problems += _size_problems(str(config.keys_file), list(facts.values()))
    if problems:
        raise keysfile.refusal(problems)
    return Keyring(facts, SoftwareBackend(opened))


def _size_problems(place: str, served: list[KeyFacts]) -> Iterator[Problem]:
    """All keys are told in one message, which an oracle asks for again and again."""
    fitting = len(served)
    while fitting and _size(served[:fitting]) > MAX_PAYLOAD:
        fitting -= 1
    if fitting < len(served):
        reason = f"{len(served)} keys are too many for one message to the oracle, the first {fitting} of them fit"
        yield Problem(
            place, reason, "serve fewer keys, or smaller ones: an elliptic-curve key takes a third of RSA-4096"
        )


def _size(served: list[KeyFacts]) -> int:
    largest = (1 << 62, "n" * 64)  # an id and a node's name
    return len(FROM_SIGNER.encode(Keys(*largest, tuple(served), Head(largest[1], largest[0], bytes(32)))))


def _directory_problems(gnupg_home: Path) -> list[Problem]:
    problems = []
    for directory in (gnupg_home, gnupg_home / "private-keys-v1.d"):
        try:
            mode = stat.S_IMODE(directory.stat().st_mode)
        except OSError as error:
            hint = "restore it from the backup; blind-oracle key import makes it for a key that is exported again"
            problems.append(Problem(str(directory), f"cannot be read: {error.strerror}", hint))
            continue
        if mode & 0o077:
            reason = f"others may look into it (mode {mode:04o}), expected 0700"
            problems.append(Problem(str(directory), reason, f"chmod 700 {directory}"))
    return problems


def _key_hint(name: str) -> str:
    again = f"export the key again and blind-oracle key import FILE --name {name}"
    return f"restore this file from the backup, or {again}"


def _open(config: SignerConfig, name: str, entry: KeyEntry) -> SecretKey:
    passphrase = passphrases.find(name, config.passphrases)
    try:
        return keyfile.load(config.gnupg_home, entry.keygrip, passphrase)
    except KeyUnavailableError as error:
        if passphrase is None or error.hint:
            raise
        used = passphrases.place(name, config.passphrases)
        raise KeyUnavailableError(str(error), f"the passphrase was read from {used}; {_key_hint(name)}") from None


def _facts(name: str, entry: KeyEntry, key: SecretKey) -> KeyFacts:
    least = smallest_digest(key.public)
    short = [algorithm.name.lower() for algorithm in entry.hash_algorithms if algorithm.digest_size < least]
    if short:
        raise ConfigError(
            f"hash_algorithms: digests of {', '.join(short)} are too short for this key",
            f"name only algorithms of at least {least * 8} bits",
        )
    return KeyFacts(
        name=name,
        fingerprint=entry.fingerprint,
        primary=entry.primary,
        keygrip=entry.keygrip,
        public_key=key.public,
        hash_algorithms=entry.hash_algorithms,
        can_certify=entry.can_certify,
        created=entry.created,
        expires=entry.expires,
        user_id=entry.user_id,
        seal_only=entry.seal_only,
    )
