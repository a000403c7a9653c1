"""What every backend must do: the contract test of the `Backend` Protocol, with a real gpg-agent as the reference."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import BackendError, KeyUnavailableError
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.signatures import EddsaSignature, RsaSignature
from agentproxy.signer import keyfile, verify
from agentproxy.signer.backend import Backend
from agentproxy.signer.software import SoftwareBackend
from tests.signer.agent import AgentBackend
from tests.signer.conftest import PASSPHRASE, GnupgHome

# Per key: digests as long as its curve and longer; gpg-agent takes the leftmost bits.
DIGESTS = {
    "rsa2048": [HashAlgorithm.SHA1, HashAlgorithm.SHA224, HashAlgorithm.SHA256, HashAlgorithm.SHA512],
    "rsa3072": [HashAlgorithm.SHA384],
    "dsa2048": [HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512],
    "ed25519": [HashAlgorithm.SHA256, HashAlgorithm.SHA512],
    "p256": [HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512],
    "p384": [HashAlgorithm.SHA384, HashAlgorithm.SHA512],
    "p521": [HashAlgorithm.SHA512],
}
CASES = [(name, algorithm) for name, algorithms in DIGESTS.items() for algorithm in algorithms]


def digest_of(algorithm: HashAlgorithm, content: bytes = b"content") -> Digest:
    return Digest(algorithm, hashlib.shake_256(content).digest(algorithm.digest_size))


@pytest.fixture(scope="module")
def software(home: GnupgHome) -> SoftwareBackend:
    return SoftwareBackend({grip: keyfile.load(home.path, grip) for grip in home.grips.values()})


@pytest.fixture(scope="module")
def agent(home: GnupgHome, software: SoftwareBackend) -> Iterator[AgentBackend]:
    backend = AgentBackend(home.path, {grip: software.public_key(grip) for grip in software.keygrips()})
    yield backend
    backend.close()


@pytest.fixture(params=["software", "agent"])
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(("name", "algorithm"), CASES)
def test_it_signs_so_that_the_public_key_accepts_it(
    backend: Backend, home: GnupgHome, name: str, algorithm: HashAlgorithm
) -> None:
    grip, digest = home.grips[name], digest_of(algorithm)
    verify.check(backend.public_key(grip), digest, backend.sign(grip, digest))


def test_it_names_its_keys_and_their_public_halves(backend: Backend, home: GnupgHome) -> None:
    assert backend.keygrips() == set(home.grips.values())
    assert all(backend.public_key(grip).keygrip == grip for grip in backend.keygrips())


def test_it_says_that_a_key_is_not_there(backend: Backend) -> None:
    with pytest.raises(KeyUnavailableError):
        backend.public_key(Keygrip(bytes(20)))
    with pytest.raises(KeyUnavailableError):
        backend.sign(Keygrip(bytes(20)), digest_of(HashAlgorithm.SHA256))


@pytest.mark.parametrize("name", ["p384", "p521", "dsa2048"])
def test_it_does_not_sign_a_digest_that_is_too_short(backend: Backend, home: GnupgHome, name: str) -> None:
    with pytest.raises(BackendError):
        backend.sign(home.grips[name], digest_of(HashAlgorithm.SHA1))


@pytest.mark.parametrize("name", ["rsa2048", "ed25519", "p256"])
def test_four_threads_at_once_get_right_signatures(backend: Backend, home: GnupgHome, name: str) -> None:
    grip = home.grips[name]

    def sign(number: int) -> None:
        digest = digest_of(HashAlgorithm.SHA256, str(number).encode())
        verify.check(backend.public_key(grip), digest, backend.sign(grip, digest))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sign, range(40)))


@pytest.mark.parametrize(
    ("name", "algorithm"), [(name, algorithm) for name, algorithm in CASES if name.startswith(("rsa", "ed25519"))]
)
def test_signatures_without_chance_are_gpg_agents_bit_for_bit(
    software: SoftwareBackend, agent: AgentBackend, home: GnupgHome, name: str, algorithm: HashAlgorithm
) -> None:
    for content in (b"one", b"two", b"three"):
        digest = digest_of(algorithm, content)
        assert software.sign(home.grips[name], digest) == agent.sign(home.grips[name], digest)


def test_an_agent_with_the_passphrase_and_our_reader_unlock_the_same_key(locked_home: GnupgHome) -> None:
    for name in ("rsa2048", "ed25519"):
        grip, digest = locked_home.grips[name], digest_of(HashAlgorithm.SHA512)
        key = keyfile.load(locked_home.path, grip, PASSPHRASE.encode())
        agent = AgentBackend(locked_home.path, {grip: key.public}, PASSPHRASE)
        try:
            assert SoftwareBackend({grip: key}).sign(grip, digest) == agent.sign(grip, digest)
        finally:
            agent.close()


def flipped(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("rsa2048", lambda signature: RsaSignature(flipped(signature.s))),
        ("ed25519", lambda signature: EddsaSignature(flipped(signature.r), signature.s)),
        ("ed25519", lambda signature: EddsaSignature(signature.r, flipped(signature.s))),
        ("p256", lambda signature: type(signature)(flipped(signature.r), signature.s)),
        ("dsa2048", lambda signature: type(signature)(signature.r, flipped(signature.s))),
    ],
)
def test_one_flipped_bit_of_a_signature_is_noticed(
    software: SoftwareBackend, home: GnupgHome, name: str, fault: Callable[[object], object]
) -> None:
    grip, digest = home.grips[name], digest_of(HashAlgorithm.SHA512)
    with pytest.raises(BackendError, match="wrong"):
        verify.check(software.public_key(grip), digest, fault(software.sign(grip, digest)))
