import hashlib
from datetime import timedelta

import pytest

from agentproxy.oracle.authn import Proof, Rejection, authenticate, prove, recheck
from agentproxy.oracle.caller import Caller
from agentproxy.oracle.credentials import CertificateEntry, Credentials, RunnerEntry, TokenEntry
from agentproxy.oracle.policy import Policy, RunnerRule
from agentproxy.protocol.codes import RejectionCode
from tests.oracle.samples import NOW, policy

LATER, EARLIER = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def token_text(name: str) -> str:
    return "bo_" + name.ljust(43, "x")


def token(name: str, runner: str, *, expires: bool = False, revoked: bool = False) -> TokenEntry:
    digest = sha256(token_text(name))
    return TokenEntry(
        digest, digest.hex()[:12], runner, EARLIER, NOW if expires else LATER, EARLIER if revoked else None
    )


def certificate(name: str, runner: str, *, expires: bool = False) -> CertificateEntry:
    return CertificateEntry(sha256(name), sha256("key of " + name), runner, EARLIER, NOW if expires else LATER)


TOKENS = [
    token("a", "a"),
    token("a2", "a"),
    token("b", "b"),
    token("expired", "a", expires=True),
    token("revoked", "a", revoked=True),
    token("off", "off"),
    token("gone", "gone"),
    token("http", "http"),
    token("unlisted", "unlisted"),
]
CERTIFICATES = [
    certificate("A", "a"),
    certificate("B", "b"),
    certificate("EXPIRED", "a", expires=True),
    certificate("REVOKED", "a"),
    certificate("OFF", "off"),
    certificate("GONE", "gone"),
    certificate("UNLISTED", "unlisted"),
]
CREDENTIALS = Credentials(
    1,
    {name: RunnerEntry(name, EARLIER, disabled=name == "off") for name in ("a", "b", "off", "http", "unlisted")},
    {entry.sha256: entry for entry in TOKENS},
    {entry.sha256: entry for entry in CERTIFICATES},
    frozenset({sha256("key of REVOKED")}),
)
RULE = RunnerRule(("modern",))
POLICY = policy(
    a=RunnerRule(("modern",), networks=("10.0.0.0/8", "fd00::/8")),
    b=RULE,
    off=RULE,
    gone=RULE,
    http=RunnerRule(("modern",), token_only=True),
)
HERE = "10.1.2.3:40000"


def answer(
    certificate_der: str | None, token_name: str, address: str = HERE, rules: Policy = POLICY
) -> Caller | Rejection:
    proof = prove(None if certificate_der is None else certificate_der.encode(), token_text(token_name), address)
    return proof if isinstance(proof, Rejection) else authenticate(CREDENTIALS, rules, proof, NOW)


@pytest.mark.parametrize(
    ("certificate_der", "token_name", "runner"),
    [("A", "a", "a"), ("A", "a2", "a"), ("B", "b", "b"), (None, "http", "http")],
)
def test_good_credentials_name_their_runner(certificate_der: str | None, token_name: str, runner: str) -> None:
    caller = answer(certificate_der, token_name)
    assert isinstance(caller, Caller)
    assert caller.runner == runner
    assert caller.token == sha256(token_text(token_name)).hex()[:12]


@pytest.mark.parametrize(
    ("certificate_der", "token_name", "code", "reason"),
    [
        ("C", "a", RejectionCode.CERTIFICATE_UNKNOWN, "in the registry"),
        ("EXPIRED", "a", RejectionCode.CERTIFICATE_EXPIRED, "expired certificate of runner a"),
        ("REVOKED", "a", RejectionCode.CERTIFICATE_REVOKED, "revoked certificate of runner a"),
        ("A", "c", RejectionCode.TOKEN_UNKNOWN, "no token"),
        ("A", "expired", RejectionCode.TOKEN_EXPIRED, "of runner a"),
        ("A", "revoked", RejectionCode.TOKEN_REVOKED, "of runner a"),
        ("A", "b", RejectionCode.TOKEN_OF_ANOTHER_RUNNER, "certificate of runner a with token"),
        ("B", "a", RejectionCode.TOKEN_OF_ANOTHER_RUNNER, "of runner a"),
        ("A", "http", RejectionCode.TOKEN_OF_ANOTHER_RUNNER, "of runner http"),
        ("OFF", "off", RejectionCode.RUNNER_DISABLED, "runner off is disabled"),
        ("GONE", "gone", RejectionCode.RUNNER_UNKNOWN, "not in the registry"),
        ("UNLISTED", "unlisted", RejectionCode.RUNNER_UNKNOWN, "not in the policy"),
        (None, "a", RejectionCode.CERTIFICATE_UNKNOWN, "without a certificate"),
    ],
)
def test_bad_credentials_are_rejected_and_the_log_learns_why(
    certificate_der: str | None, token_name: str, code: RejectionCode, reason: str
) -> None:
    rejection = answer(certificate_der, token_name)
    assert isinstance(rejection, Rejection)
    assert rejection.code is code
    assert reason in rejection.reason


@pytest.mark.parametrize("days", [-4000, -1, 0])
@pytest.mark.parametrize(
    ("certificate_der", "token_name", "code"),
    [("REVOKED", "a", RejectionCode.CERTIFICATE_REVOKED), ("A", "revoked", RejectionCode.TOKEN_REVOKED)],
)
def test_a_clock_that_goes_back_does_not_bring_back_what_was_revoked(
    certificate_der: str, token_name: str, code: RejectionCode, days: int
) -> None:
    proof = prove(certificate_der.encode(), token_text(token_name), HERE)
    assert isinstance(proof, Proof)
    verdict = authenticate(CREDENTIALS, POLICY, proof, NOW + timedelta(days=days))
    assert isinstance(verdict, Rejection)
    assert verdict.code is code


@pytest.mark.parametrize(
    "text", ["", "bo_", "bo_" + "x" * 42, "bo_" + "x" * 44, "bo_" + "x" * 42 + "é", token_text("a") + "\n"]
)
def test_what_has_no_token_s_form_is_not_looked_up(text: str) -> None:
    rejection = prove(b"A", text, HERE)
    assert isinstance(rejection, Rejection)
    assert rejection.code is RejectionCode.TOKEN_UNKNOWN
    assert text.strip("\n") not in rejection.reason or not text


@pytest.mark.parametrize(
    ("address", "is_good"),
    [
        (HERE, True),
        ("[::ffff:10.1.2.3]:40000", True),
        ("[fd00::1]:40000", True),
        ("192.0.2.1:40000", False),
        ("[2001:db8::1]:40000", False),
        ("unix:", False),
    ],
)
def test_a_runner_comes_from_its_networks_only(address: str, is_good: bool) -> None:
    answered = answer("A", "a", address)
    assert isinstance(answered, Caller) == is_good
    assert is_good or (isinstance(answered, Rejection) and answered.code is RejectionCode.ADDRESS_FORBIDDEN)


def test_an_open_connection_is_asked_again_with_what_it_once_proved() -> None:
    caller = answer("A", "a")
    assert isinstance(caller, Caller)
    assert recheck(CREDENTIALS, POLICY, caller, NOW) == caller
    expired = recheck(CREDENTIALS, POLICY, caller, LATER)
    assert isinstance(expired, Rejection)
    without = Credentials(2, CREDENTIALS.runners, {}, CREDENTIALS.certificates)
    revoked = recheck(without, POLICY, caller, NOW)
    assert isinstance(revoked, Rejection)
    assert revoked.code is RejectionCode.TOKEN_UNKNOWN


def test_no_secret_shows_in_what_is_printed() -> None:
    caller = answer("A", "a")
    assert isinstance(caller, Caller)
    proof = prove(b"A", token_text("a"), HERE)
    assert isinstance(proof, Proof)
    assert proof.token_sha256.hex() not in repr(proof) + repr(caller)
    assert repr(proof.token_sha256) not in repr(proof) + repr(caller)
