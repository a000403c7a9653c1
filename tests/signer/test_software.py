"""The software backend against keys that gpg made."""

import hashlib

import pytest

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import BackendError, KeyUnavailableError
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.signatures import EddsaSignature, RsaSignature
from agentproxy.signer import keyfile, verify
from agentproxy.signer.software import SoftwareBackend
from tests.signer.conftest import ALGORITHMS, PASSPHRASE, GnupgHome

SHA512 = Digest(HashAlgorithm.SHA512, hashlib.sha512(b"content").digest())
SHA256 = Digest(HashAlgorithm.SHA256, hashlib.sha256(b"content").digest())
SHA1 = Digest(HashAlgorithm.SHA1, bytes(20))


def backend_of(home: GnupgHome, *names: str, passphrase: bytes | None = None) -> SoftwareBackend:
    grips = [home.grips[name] for name in names]
    return SoftwareBackend({grip: keyfile.load(home.path, grip, passphrase) for grip in grips})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_key_of_every_algorithm_signs_what_its_public_half_accepts(home: GnupgHome, name: str) -> None:
    grip = home.grips[name]
    backend = backend_of(home, name)
    signature = backend.sign(grip, SHA512)
    verify.check(backend.public_key(grip), SHA512, signature)
    assert backend.keygrips() == {grip}


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "rsa3072"])
def test_a_protected_key_of_every_algorithm_opens_with_its_passphrase(locked_home: GnupgHome, name: str) -> None:
    backend = backend_of(locked_home, name, passphrase=PASSPHRASE.encode())
    grip = locked_home.grips[name]
    verify.check(backend.public_key(grip), SHA512, backend.sign(grip, SHA512))


def test_a_key_that_is_not_there_is_named(home: GnupgHome) -> None:
    backend = backend_of(home, "ed25519")
    with pytest.raises(KeyUnavailableError, match="0" * 40):
        backend.sign(Keygrip(bytes(20)), SHA512)


@pytest.mark.parametrize(
    ("name", "digest"), [("p384", SHA256), ("p521", SHA256), ("ed25519", SHA1), ("p256", SHA1), ("dsa2048", SHA1)]
)
def test_a_digest_shorter_than_the_key_is_refused(home: GnupgHome, name: str, digest: Digest) -> None:
    with pytest.raises(KeyUnavailableError, match="at least"):
        backend_of(home, name).sign(home.grips[name], digest)


@pytest.mark.parametrize("algorithm", HashAlgorithm)
def test_rsa_signs_every_hash_algorithm(home: GnupgHome, algorithm: HashAlgorithm) -> None:
    backend = backend_of(home, "rsa2048")
    grip = home.grips["rsa2048"]
    digest = Digest(algorithm, b"\x5a" * algorithm.digest_size)
    verify.check(backend.public_key(grip), digest, backend.sign(grip, digest))


def test_a_wrong_signature_does_not_pass(home: GnupgHome) -> None:
    for name in ALGORITHMS:
        grip = home.grips[name]
        backend = backend_of(home, name)
        other = Digest(HashAlgorithm.SHA512, hashlib.sha512(b"other content").digest())
        with pytest.raises(BackendError, match="wrong"):
            verify.check(backend.public_key(grip), SHA512, backend.sign(grip, other))


def test_a_signature_of_another_kind_does_not_pass(home: GnupgHome) -> None:
    backend = backend_of(home, "rsa2048", "ed25519")
    for grip in backend.keygrips():
        for signature in (RsaSignature(b"\x01"), EddsaSignature(bytes(32), bytes(32)), RsaSignature(b"\xff" * 256)):
            with pytest.raises(BackendError, match="wrong"):
                verify.check(backend.public_key(grip), SHA512, signature)
