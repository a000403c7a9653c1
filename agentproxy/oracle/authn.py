"""Client certificate and token → `Caller`, or the reason why not. Values in, a decision out.

Both must name the same runner. The TLS library has already checked the certificate against our authority; here
it must also be one that the registry knows, so that a certificate nobody recorded opens nothing.
"""

import functools
import hashlib
import ipaddress
import re
from dataclasses import field
from datetime import datetime

from agentproxy.oracle.caller import Caller
from agentproxy.oracle.credentials import CertificateEntry, Credentials, TokenEntry, TokenKind
from agentproxy.oracle.policy import Policy
from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.values import frozen

__all__ = ["Newcomer", "Proof", "Rejection", "authenticate", "prove", "recheck"]

_TOKEN = re.compile(r"bo_[A-Za-z0-9_-]{43}")


@frozen
class Proof:
    """What a connection showed of itself."""

    certificate_sha256: bytes | None  # of the client certificate; None: it has none
    token_sha256: bytes = field(repr=False)
    address: str  # host:port
    channel: str = "relay"
    attached: str | None = None  # the runner whose ssh key sshd has checked, in the place of a certificate


@frozen
class Rejection:
    """No. The peer gets the code; the reason, with names, is for our log."""

    code: RejectionCode
    reason: str


@frozen
class Newcomer:
    """A host with an enrolment file: it gets lasting credentials, and nothing else."""

    caller: Caller


def prove(
    certificate: bytes | None, token: str, address: str, channel: str = "relay", attached: str | None = None
) -> Proof | Rejection:
    """Reduce what was shown to hashes, so that the token goes no further.

    Args:
        certificate: the client certificate, DER.
        attached: the runner that sshd has let in by its key.
    """
    if _TOKEN.fullmatch(token) is None:
        return Rejection(RejectionCode.TOKEN_UNKNOWN, "the token does not have a token's form")
    digest = None if certificate is None else hashlib.sha256(certificate).digest()
    return Proof(digest, hashlib.sha256(token.encode("ascii")).digest(), address, channel, attached)


def authenticate(
    credentials: Credentials, policy: Policy, proof: Proof, now: datetime
) -> Caller | Newcomer | Rejection:
    """Who this is, if certificate (or ssh key) and token are good and belong to one runner that the policy knows."""
    certificate = _certificate(credentials, proof, now)
    if isinstance(certificate, Rejection):
        return certificate
    token = _token(credentials, proof, now)
    if isinstance(token, Rejection):
        return token
    if certificate is not None and certificate.runner != token.runner:
        return Rejection(
            RejectionCode.TOKEN_OF_ANOTHER_RUNNER,
            f"certificate of runner {certificate.runner} with token {token.id} of runner {token.runner}",
        )
    if proof.attached is not None and proof.attached != token.runner:
        return Rejection(
            RejectionCode.TOKEN_OF_ANOTHER_RUNNER,
            f"ssh key of runner {proof.attached} with token {token.id} of runner {token.runner}",
        )
    rejection = _runner(credentials, policy, token.runner, proof)
    if rejection is not None:
        return rejection
    caller = Caller(
        runner=token.runner,
        token=token.id,
        address=proof.address,
        certificate=None if proof.certificate_sha256 is None else proof.certificate_sha256.hex(),
        channel=proof.channel,
        attached=proof.attached,
        token_sha256=proof.token_sha256,
    )
    return Newcomer(caller) if token.kind is TokenKind.BOOTSTRAP else caller


def recheck(credentials: Credentials, policy: Policy, caller: Caller, now: datetime) -> Caller | Rejection:
    """Ask again for an open connection: a revocation must not wait for the next one."""
    certificate = None if caller.certificate is None else bytes.fromhex(caller.certificate)
    proof = Proof(certificate, caller.token_sha256, caller.address, caller.channel, caller.attached)
    verdict = authenticate(credentials, policy, proof, now)
    if isinstance(verdict, Newcomer):
        return Rejection(RejectionCode.TOKEN_UNKNOWN, f"bootstrap token {caller.token} on an open connection")
    return verdict


def _certificate(credentials: Credentials, proof: Proof, now: datetime) -> CertificateEntry | Rejection | None:
    if proof.certificate_sha256 is None:
        return None
    entry = credentials.certificates.get(proof.certificate_sha256)
    if entry is None:
        return Rejection(
            RejectionCode.CERTIFICATE_UNKNOWN, f"no certificate {proof.certificate_sha256.hex()} in the registry"
        )
    if entry.public_key_sha256 in credentials.revoked_public_keys:
        return Rejection(RejectionCode.CERTIFICATE_REVOKED, f"revoked certificate of runner {entry.runner}")
    if entry.expires is not None and entry.expires <= now:
        return Rejection(RejectionCode.CERTIFICATE_EXPIRED, f"expired certificate of runner {entry.runner}")
    return entry


def _token(credentials: Credentials, proof: Proof, now: datetime) -> TokenEntry | Rejection:
    entry = credentials.tokens.get(proof.token_sha256)
    if entry is None:
        return Rejection(RejectionCode.TOKEN_UNKNOWN, f"no token {proof.token_sha256.hex()[:12]} in the registry")
    if entry.revoked is not None:
        return Rejection(RejectionCode.TOKEN_REVOKED, f"revoked token {entry.id} of runner {entry.runner}")
    if entry.expires is not None and entry.expires <= now:
        return Rejection(RejectionCode.TOKEN_EXPIRED, f"expired token {entry.id} of runner {entry.runner}")
    return entry


def _runner(credentials: Credentials, policy: Policy, name: str, proof: Proof) -> Rejection | None:
    entry, rule = credentials.runners.get(name), policy.runners.get(name)
    if entry is None or rule is None:
        where = "registry" if entry is None else "policy"
        return Rejection(RejectionCode.RUNNER_UNKNOWN, f"runner {name} is not in the {where}")
    if entry.disabled:
        return Rejection(RejectionCode.RUNNER_DISABLED, f"runner {name} is disabled")
    if proof.certificate_sha256 is None and proof.attached is None and not rule.token_only:
        return Rejection(RejectionCode.CERTIFICATE_UNKNOWN, f"runner {name} came without a certificate")
    if rule.networks and not _within(proof.address, rule.networks):
        return Rejection(RejectionCode.ADDRESS_FORBIDDEN, f"runner {name} came from {proof.address}")
    return None


def _within(address: str, networks: tuple[str, ...]) -> bool:
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False  # not an IP address, such as a Unix socket's peer: no network holds it
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return any((mapped or ip) in network for network in _parse_networks(networks))


@functools.lru_cache(maxsize=1024)
def _parse_networks(networks: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, networks))
