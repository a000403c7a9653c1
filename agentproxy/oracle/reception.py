"""What all ways into this oracle share: who is let in, what a caller is told of its keys, certificates to fetch."""

import time
from collections import defaultdict
from dataclasses import field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import trio

from agentproxy.oracle.attention import Attention
from agentproxy.oracle.authn import Newcomer, Proof, Rejection, authenticate, prove, recheck
from agentproxy.oracle.bootstraps import BootstrapReuse
from agentproxy.oracle.caller import Caller
from agentproxy.oracle.complaints import Complaints
from agentproxy.oracle.fallbackrecords import FallbackRecords
from agentproxy.oracle.issuing import Issuer, is_due
from agentproxy.oracle.keptheads import KeptHeads
from agentproxy.oracle.policy import Deny, served_keys
from agentproxy.oracle.registry import RegistryError
from agentproxy.oracle.registryview import RegistryView
from agentproxy.oracle.selection import select_key
from agentproxy.oracle.signing import SigningService
from agentproxy.protocol import oracle_messages
from agentproxy.protocol.codes import RefusalCode, RejectionCode
from agentproxy.protocol.errors import BackendError, ConfigError, RefusedError
from agentproxy.protocol.fields import MAX_CLAIM, Head
from agentproxy.protocol.key_messages import SelectedKey, SelectKey, ServedKey
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.oracle_messages import Refused
from agentproxy.protocol.values import frozen

__all__ = ["PART_SIZE", "SOFTWARE", "Reception"]

PART_SIZE = 16 * 1024  # bytes; as hex it fills half a frame
_MOST_PARTS = 64
_READERS = 4  # threads for certificates: relays fetch one now and then, and nothing else may wait behind them
# Whoever is rejected so may have been added since the last poll; only holders of a certificate of ours get so far.
_PERHAPS_NEW = frozenset({RejectionCode.CERTIFICATE_UNKNOWN, RejectionCode.TOKEN_UNKNOWN, RejectionCode.RUNNER_UNKNOWN})


def _software() -> str:
    try:
        return f"blind-oracle {version('blind-oracle')}"
    except PackageNotFoundError:  # run from a source tree
        return "blind-oracle"


SOFTWARE = _software()


@frozen
class Reception:
    """One oracle's doors."""

    node: str
    service: SigningService
    registry: RegistryView
    certificates: Path  # a directory of NAME.pgp
    max_in_flight: int  # requests of one connection
    issuer: Issuer
    reuse: BootstrapReuse
    heads: KeptHeads
    fallback: FallbackRecords
    complaints: Complaints = field(default_factory=lambda: Complaints(trio.current_time))
    readers: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(_READERS))
    attention: defaultdict[str, Attention] = field(  # by runner: names are the registry's
        default_factory=lambda: defaultdict(lambda: Attention(time.perf_counter))
    )

    async def admit(
        self,
        certificate: bytes | None,
        token: str,
        address: str,
        channel: str = "relay",
        attached: str | None = None,
    ) -> Caller | Newcomer | Rejection:
        """Who this is, as of now: credentials that were added a moment ago count.

        Args:
            certificate: the client certificate, DER.
            address: host:port.
            attached: the runner that sshd has let in by its key, in the place of a certificate.
        """
        began = time.perf_counter()
        verdict = await self._admit(certificate, token, address, channel, attached)
        self.service.tally.authn.observe(time.perf_counter() - began)
        return self.turned_away(verdict) if isinstance(verdict, Rejection) else verdict

    def turned_away(self, rejection: Rejection) -> Rejection:
        """Count somebody who is not let in."""
        self.service.tally.rejected[rejection.code] += 1
        return rejection

    async def _admit(
        self, certificate: bytes | None, token: str, address: str, channel: str, attached: str | None
    ) -> Caller | Newcomer | Rejection:
        proof = prove(certificate, token, address, channel, attached)
        if isinstance(proof, Rejection):
            return proof
        verdict = self._judge(proof)
        if isinstance(verdict, Rejection) and verdict.code in _PERHAPS_NEW:
            await self.registry.refresh()
            verdict = self._judge(proof)
        if isinstance(verdict, Rejection):
            self.reuse.look_at(self.registry.credentials, proof, self.complaints)
            return verdict
        if isinstance(verdict, Caller):
            rejection = await self._confirm(verdict)
            if rejection is not None:
                return rejection
            verdict = self._judge(proof)  # the record took its time, and somebody may have revoked meanwhile
        if isinstance(verdict, Caller):
            self.registry.note_use(verdict.token)
        return verdict

    async def _confirm(self, caller: Caller) -> Rejection | None:
        try:
            await self.issuer.confirm(caller, self.registry.credentials)
        except RefusedError as error:
            return Rejection(RejectionCode(error.code), str(error))
        except (BackendError, RegistryError, ConfigError) as error:
            return Rejection(RejectionCode.NOT_OPERATIONAL, f"the first use of its token was not recorded: {error}")
        return None

    async def enrol(self, newcomer: Newcomer) -> oracle_messages.Credentials | Rejection:
        """Lasting credentials for a host that has shown its enrolment file's."""
        try:
            return await self.issuer.issue(newcomer.caller, self.registry.credentials)
        except RefusedError as error:
            return Rejection(RejectionCode(error.code), str(error))
        except (BackendError, RegistryError, ConfigError) as error:
            return Rejection(RejectionCode.NOT_OPERATIONAL, f"no credentials: {error}")

    def is_renewal_due(self, caller: Caller) -> bool:
        """Whether this caller should get new credentials now."""
        return self.registry.is_fresh and is_due(self.registry.credentials, caller, datetime.now(UTC))

    async def renew(self, caller: Caller) -> oracle_messages.Credentials:
        """New credentials in place of those of an open connection.

        Raises:
            RefusedError, BackendError, RegistryError, ConfigError: there are none; a later attempt may succeed.
        """
        return await self.issuer.issue(caller, self.registry.credentials)

    def _judge(self, proof: Proof) -> Caller | Newcomer | Rejection:
        if not self.registry.is_fresh:
            reason = "the registry is out of reach, or the audit log not yet replayed"
            return Rejection(RejectionCode.NOT_OPERATIONAL, reason)
        return authenticate(self.registry.credentials, self.service.policy, proof, datetime.now(UTC))

    def still(self, caller: Caller) -> Caller | Rejection:
        """Whether an open connection may stay."""
        return recheck(self.registry.credentials, self.service.policy, caller, datetime.now(UTC))

    def keys_of(self, caller: Caller) -> tuple[ServedKey, ...]:
        """The keys that this caller may use."""
        return served_keys(self.service.policy, caller.runner, self.service.keys.values())

    def select_key(self, caller: Caller, request: SelectKey) -> SelectedKey | Refused:
        """The one key that this caller should use for a distribution."""
        policy, served = self.service.policy, self.service.keys.values()
        chosen = select_key(policy, request.distribution, request.key_type, runner=caller.runner, served=served)
        if isinstance(chosen, Deny):
            refusal = RefusedError(chosen.code, chosen.reason)
            asserted = caller.asserted(request.distribution)
            self.service.refusals.record_keyless(caller, request.id, asserted, refusal, operation=request.tag)
            self.service.tally.refused[chosen.code] += 1
            return Refused(request.id, chosen.code, chosen.reason[:MAX_CLAIM])
        fingerprint = policy.keys[chosen].fingerprint
        (key,) = (key for key in self.keys_of(caller) if key.facts.fingerprint == fingerprint)
        return SelectedKey(request.id, key)

    @property
    def head(self) -> Head | None:
        """The end of the audit log, as far as we have heard."""
        return self.service.head

    async def certificate_parts(self, caller: Caller, fingerprint: Fingerprint) -> list[bytes]:
        """The OpenPGP certificate of a key that this caller may use, in parts of at most PART_SIZE bytes.

        Raises:
            RefusedError: it may use no such key.
            BackendError: the certificate is missing here, or too long to send.
        """
        wanted = [
            key.facts for key in self.keys_of(caller) if fingerprint in {key.facts.fingerprint, key.facts.primary}
        ]
        if not wanted:
            raise RefusedError(RefusalCode.KEY_UNKNOWN, f"no key {fingerprint} for runner {caller.runner}")
        path = self.certificates / f"{wanted[0].name}.pgp"
        try:
            data = await trio.to_thread.run_sync(path.read_bytes, limiter=self.readers)
        except OSError as error:
            raise BackendError(f"{path}: cannot be read: {error.strerror}") from error
        if not 1 <= len(data) <= _MOST_PARTS * PART_SIZE:
            raise BackendError(f"{path}: expected 1 byte to 1 MiB, got {len(data)} bytes")
        return [data[start : start + PART_SIZE] for start in range(0, len(data), PART_SIZE)]
