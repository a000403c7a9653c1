"""Which of the served keys shall sign, from what its user says about it."""

import fnmatch
from collections.abc import Iterable

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.keys import Curve, EccPublicKey
from agentproxy.protocol.values import frozen

__all__ = ["KeyWanted", "Undecided", "check_for_rpm", "choose", "hash_algorithm"]

_STATES = (HashAlgorithm.SHA256, HashAlgorithm.SHA512)  # the ones whose states can travel


@frozen
class KeyWanted:
    """What is known about the key; None: anything will do."""

    name: str | None = None  # or the fingerprint of the key or of its primary key
    key_type: str | None = None
    distribution: str | None = None


@frozen
class Undecided:
    """Several keys are for a distribution, and the oracle knows which one it is."""

    distribution: str
    key_type: str | None

    def unanswered(self, reason: str) -> ConfigError:
        """What is wrong when it does not tell."""
        return ConfigError(f"which key is for {self.distribution}? {reason}", "choose one with --key")


def choose(keys: Iterable[ServedKey], wanted: KeyWanted) -> ServedKey | Undecided:
    """The one key that fits; of subkeys of one certificate that are for the same, the newest.

    Raises:
        ConfigError: none does, or several do.
    """
    served = list(keys)
    fitting = [key for key in served if _fits(key, wanted)]
    if not fitting:
        names = ", ".join(f"{key.facts.name} ({key.key_type})" for key in served) or "none"
        raise ConfigError(f"no key fits {_words(wanted)}", f"the oracle serves to this runner: {names}")
    if len({(key.facts.primary, key.key_type, key.distributions) for key in fitting}) == 1:
        return max(fitting, key=lambda key: key.facts.created)  # while one is replaced by the next, as gpg does
    if wanted.distribution is not None and wanted.name is None:
        return Undecided(wanted.distribution, wanted.key_type)
    names = ", ".join(key.facts.name for key in fitting)
    raise ConfigError(f"several keys would do: {names}", "choose one with --key, --key-type or --distribution")


def _fits(key: ServedKey, wanted: KeyWanted) -> bool:
    name = wanted.name
    if name is not None and key.facts.name != name:
        digits = name.replace(" ", "").upper()
        if digits not in {str(key.facts.fingerprint), str(key.facts.primary)}:
            return False
    if wanted.key_type is not None and key.key_type != wanted.key_type:
        return False
    return wanted.distribution is None or not key.distributions or _is_for(key, wanted.distribution)


def _is_for(key: ServedKey, distribution: str) -> bool:
    return any(fnmatch.fnmatchcase(distribution, pattern) for pattern in key.distributions)


def _words(wanted: KeyWanted) -> str:
    said = (("--key", wanted.name), ("--key-type", wanted.key_type), ("--distribution", wanted.distribution))
    return " ".join(f"{option} {value}" for option, value in said if value is not None) or "anything"


def check_for_rpm(key: ServedKey) -> None:
    """Raise ConfigError for a key of whose signatures rpm would not make anything.

    The rpm of Debian 13 even ends with a crash when it reads a package with an Ed448 signature in its header.
    """
    public_key = key.facts.public_key
    if isinstance(public_key, EccPublicKey) and public_key.curve is Curve.ED448:
        raise ConfigError(f"key {key.facts.name} is an Ed448 key, and no rpm verifies these", "sign with another key")


def hash_algorithm(key: ServedKey, wanted: HashAlgorithm | None) -> HashAlgorithm:
    """The algorithm to hash with: the wanted one, or the first that the key takes.

    Raises:
        ConfigError: the key takes neither SHA-256 nor SHA-512, or not the wanted one.
    """
    taken = [each for each in _STATES if each in key.facts.hash_algorithms]
    if wanted is None and taken:
        return taken[0]
    if wanted is not None and wanted in taken:
        return wanted
    names = ", ".join(each.name.lower() for each in taken) or "neither sha256 nor sha512"
    raise ConfigError(f"key {key.facts.name} takes {names}", "--digest names the hash algorithm")
