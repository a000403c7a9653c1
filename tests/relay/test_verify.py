"""The relay's own check of a signature, with keys of every kind that gpg makes."""

import hashlib
import math
import subprocess
import sys
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from agentproxy.protocol.digests import Digest, HashAlgorithm, pkcs1_encoded
from agentproxy.protocol.keys import EccPublicKey, Keygrip, PublicKey, RsaPublicKey
from agentproxy.protocol.signatures import EddsaSignature, RsaSignature, Signature, unsigned
from agentproxy.signer import keyfile
from agentproxy.signer.software import SoftwareBackend
from relay import verify_compiled
from relay.verify import RSA_CHECKS_BEFORE_IMPORT, Verdict, Verifier
from tests.signer.conftest import ALGORITHMS, GnupgHome, home

__all__ = ["home"]

DIGEST = Digest(HashAlgorithm.SHA512, hashlib.sha512(b"package").digest())
OTHER = Digest(HashAlgorithm.SHA512, hashlib.sha512(b"another package").digest())


class Checks:
    """The relay's check as it is at the start, and as it is once `cryptography` is loaded: both must agree."""

    def __init__(self) -> None:
        self.busy = Verifier()
        self.busy._ed25519 = self.busy._load()

    def __call__(self, public: PublicKey, digest: Digest, signature: Signature) -> Verdict:
        verdicts = {Verifier().verify(public, digest, signature), self.busy.verify(public, digest, signature)}
        [verdict] = verdicts
        return verdict


verify = Checks()


def load(home: GnupgHome, name: str) -> tuple[SoftwareBackend, Keygrip, PublicKey]:
    key = keyfile.load(home.path, home.grips[name])
    return SoftwareBackend({home.grips[name]: key}), home.grips[name], key.public


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_signature_is_good_for_its_digest_and_key_and_for_no_other(home: GnupgHome, name: str) -> None:
    backend, grip, public = load(home, name)
    signature = backend.sign(grip, DIGEST)

    assert verify(public, DIGEST, signature) is Verdict.GOOD
    assert verify(public, OTHER, signature) is Verdict.BAD
    for other in ALGORITHMS:
        if other != name:
            assert verify(load(home, other)[2], DIGEST, signature) is Verdict.BAD


def test_a_runner_without_pynacl_checks_as_well(home: GnupgHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agentproxy.runtime.sodium", None)
    monkeypatch.delitem(sys.modules, "relay.verify_sodium", raising=False)
    verify_compiled._loaded.cache_clear()
    backend, grip, public = load(home, "ed25519")
    signature, verifier = backend.sign(grip, DIGEST), Verifier()

    for _ in range(2):
        assert verifier.verify(public, DIGEST, signature) is Verdict.GOOD
        assert verifier.verify(public, OTHER, signature) is Verdict.BAD
    verify_compiled._loaded.cache_clear()


@pytest.mark.parametrize("missing", [["cryptography"], ["cryptography", "nacl"]])
def test_what_a_runner_can_check_depends_on_what_it_has(home: GnupgHome, missing: list[str]) -> None:
    backend, grip, public = load(home, "ed25519")
    signature = backend.sign(grip, DIGEST)
    assert isinstance(public, EccPublicKey)
    assert isinstance(signature, EddsaSignature)
    code = (
        "import sys\n"
        f"for name in {missing}: sys.modules[name] = None\n"
        "from agentproxy.protocol.digests import Digest, HashAlgorithm\n"
        "from agentproxy.protocol.keys import Curve, EccPublicKey\n"
        "from agentproxy.protocol.signatures import EddsaSignature\n"
        "from relay.verify import Verifier\n"
        f"key = EccPublicKey(Curve.ED25519, {public.q!r})\n"
        f"signature = EddsaSignature({signature.r!r}, {signature.s!r})\n"
        f"for value in ({DIGEST.value!r}, {OTHER.value!r}):\n"
        "    print(Verifier().verify(key, Digest(HashAlgorithm.SHA512, value), signature).value)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.split() == (["unchecked", "unchecked"] if "nacl" in missing else ["good", "bad"])


@pytest.mark.parametrize("name", ["rsa2048", "ed25519", "p256", "dsa2048"])
def test_a_signature_of_another_kind_is_bad(home: GnupgHome, name: str) -> None:
    public = load(home, name)[2]
    for wrong in (RsaSignature(b"\x01" * 255), RsaSignature(b"\xff" * 256), EddsaSignature(b"\x01" * 32, b"\x02" * 32)):
        assert verify(public, DIGEST, wrong) is Verdict.BAD


def test_a_digest_of_another_algorithm_is_another_digest(home: GnupgHome) -> None:
    backend, grip, public = load(home, "rsa2048")
    other = Digest(HashAlgorithm.SHA256, DIGEST.value[:32])
    signature = backend.sign(grip, other)

    assert verify(public, other, signature) is Verdict.GOOD
    assert verify(public, DIGEST, signature) is Verdict.BAD


def test_an_exponent_that_would_stop_the_event_loop_is_not_tried() -> None:
    key = rsa.generate_private_key(65537, 2048).private_numbers()
    n = key.public_numbers.n
    block = int.from_bytes(pkcs1_encoded(DIGEST, 256), "big")
    signature = RsaSignature(unsigned(pow(block, key.d, n)))
    same_but_longer = 65537 + math.lcm(key.p - 1, key.q - 1)
    for exponent, verdict in ((65537, Verdict.GOOD), (same_but_longer, Verdict.BAD)):
        assert verify(RsaPublicKey(unsigned(n), unsigned(exponent)), DIGEST, signature) is verdict


def test_a_relay_that_checks_many_rsa_signatures_changes_to_the_faster_check(home: GnupgHome) -> None:
    backend, grip, public = load(home, "rsa2048")
    signature, verifier = backend.sign(grip, DIGEST), Verifier()
    for _ in range(RSA_CHECKS_BEFORE_IMPORT):
        assert verifier._compiled is None
        assert verifier.verify(public, DIGEST, signature) is Verdict.GOOD
    for thread in threading.enumerate():
        if thread.name == "loading-cryptography":
            thread.join(20)
    assert verifier._compiled is not None
    assert verifier.verify(public, DIGEST, signature) is Verdict.GOOD
    assert verifier.verify(public, OTHER, signature) is Verdict.BAD
