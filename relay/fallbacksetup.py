"""Gives a host a signing key of its own: a GnuPG home, a key in it, and what the relay must know of that key.

gpg itself makes or imports the key and reads its certificate; the relay signs through the agent of this home alone.
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import trio

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import BackendError, ConfigError
from agentproxy.protocol.fields import KeyFacts
from agentproxy.protocol.unstructure import unstructured
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import read_beginning, write_atomically
from relay import fallbackgpg
from relay.config import RelayConfig
from relay.fallbackgpg import ListedKey
from relay.fallbackkeys import KeyFile
from relay.fallbackmode import FallbackPlaces
from relay.keylist import KeyList
from relay.localagent import LocalAgent
from relay.verify import Verdict, Verifier

__all__ = ["FallbackSetUp", "Wish", "set_up"]

_HASHES = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
# No smartcards, and a passphrase that somebody presets is gone after a day.
_AGENT_OPTIONS = "disable-scdaemon\nno-allow-external-cache\nmax-cache-ttl 86400\n"
_MAX_EXPORT = 1_048_576  # bytes


@frozen
class Wish:
    """Which key it shall be."""

    file: Path | None  # an exported secret subkey
    algorithm: str  # else such a key is made
    expire: str


@frozen
class FallbackSetUp:
    """What there is now."""

    home: Path
    keys: tuple[KeyFacts, ...]
    certificates: str  # armored


def set_up(config: RelayConfig, wish: Wish) -> FallbackSetUp:
    """Make the home if need be, put a key into it, try each key, and tell the relay. It blocks.

    Raises:
        ConfigError: gpg refuses, the key is an oracle's or can do more than sign, or its signature is wrong.
    """
    places = FallbackPlaces.of(config.state, config.fallback)
    _check_owner(config.state)
    try:
        _make(places)
        if wish.file is None:
            user_id = f"{config.name} fallback <{config.name}@{socket.gethostname()}>"
            fallbackgpg.generate(places.home, user_id, wish.algorithm, wish.expire)
        else:
            exported = _read(wish.file)
            _refuse_unfit(config, fallbackgpg.show_file(places.home, exported))
            fallbackgpg.import_secret(places.home, exported)
        keys = trio.run(_tried, places.home, list(filter(_is_for_signing, fallbackgpg.list_secret(places.home))))
        if not keys:
            raise ConfigError(f"{places.home}: no key for signing in it")
        primaries = sorted({str(key.primary) for key in keys})
        write_atomically(places.certificate, fallbackgpg.run(places.home, "--export", *primaries), 0o644)
        plain = unstructured(KeyFile(keys))
        write_atomically(places.keys, json.dumps(plain, indent=1).encode("ascii"), 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename or places.home}: {error.strerror}") from error
    armored = fallbackgpg.run(places.home, "--armor", "--export", *primaries)
    return FallbackSetUp(places.home, keys, armored.decode("ascii"))


def _check_owner(state: Path) -> None:
    # gpg-agent looks for its home with its own user's rights, so root's files would be no use to the relay.
    try:
        owner = state.stat().st_uid
    except OSError as error:
        raise ConfigError(f"{state}: {error.strerror}", "blind-oracle-relay enroll FILE makes it") from error
    if owner != os.geteuid():
        raise ConfigError(f"{state}: belongs to uid {owner}, and we are {os.geteuid()}", "run this as the relay's user")


def _make(places: FallbackPlaces) -> None:
    places.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    places.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = places.home / "gpg-agent.conf"
    if not options.exists():
        write_atomically(options, _AGENT_OPTIONS.encode("ascii"), 0o600)


def _read(file: Path) -> bytes:
    exported = read_beginning(file, _MAX_EXPORT + 1)
    if len(exported) > _MAX_EXPORT:
        raise ConfigError(f"{file}: expected an exported key, got more than {_MAX_EXPORT} bytes")
    return exported


def _refuse_unfit(config: RelayConfig, keys: list[ListedKey]) -> None:
    """Look at a file before anything of it is imported."""
    oracles = KeyList(config.state / "keys.json")
    oracles.load()
    served = {key.facts.keygrip: key.facts for key in oracles.served}
    for key in keys:
        if key.is_secret and key.keygrip in served and key.fingerprint not in config.fallback.accept_oracle_keys:
            raise ConfigError(
                f"{key.fingerprint}: this is the oracle's key {served[key.keygrip].name}: it must not lie on a runner",
                "make a subkey for this host; or accept the risk by name: fallback.accept_oracle_keys in relay.yaml",
            )
        if key.is_secret and key.can_certify:
            raise ConfigError(
                f"{key.fingerprint}: it can certify, so whoever signs with it could change certificates",
                "export the signing subkey alone: gpg --export-secret-subkeys FINGERPRINT!",
            )
    if not any(map(_is_for_signing, keys)):
        raise ConfigError(
            "no secret key for signing in it", "gpg --export-secret-subkeys FINGERPRINT! makes such a file"
        )


def _is_for_signing(key: ListedKey) -> bool:
    return key.is_secret and key.can_sign and not key.can_certify


async def _tried(home: Path, listed: Iterable[ListedKey]) -> tuple[KeyFacts, ...]:
    """Have each key sign a digest as gpg would; what does not work now would not in an outage."""
    agent, keys = LocalAgent(home), []
    digest = Digest(HashAlgorithm.SHA256, hashlib.sha256(b"blind-oracle-relay fallback setup").digest())
    for one in listed:
        try:
            public_key = await agent.public_key(one.keygrip)
            signature = await agent.sign(one.keygrip, digest)
        except BackendError as error:
            hint = "a key with a passphrase signs only while the passphrase is in this agent's cache"
            raise ConfigError(f"{one.fingerprint}: it does not sign: {error}", hint) from error
        if Verifier().verify(public_key, digest, signature) is Verdict.BAD:
            raise ConfigError(f"{one.fingerprint}: its signature is wrong")
        name = f"own-{str(one.fingerprint)[-8:].lower()}"
        facts = KeyFacts(
            name, one.fingerprint, one.primary, one.keygrip, public_key, _HASHES,
            can_certify=one.can_certify, created=one.created, expires=one.expires, user_id=one.user_id,
        )  # fmt: skip
        keys.append(facts)
    return tuple(keys)
