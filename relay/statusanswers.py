"""What the control socket tells about a relay. Imported at the first question, since most relays are never asked."""

import os

import trio

from agentproxy.protocol.errors import ConfigError, RefusedError
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.keys import Curve, EccPublicKey, PublicKey
from agentproxy.protocol.oracle_messages import Refused
from agentproxy.runtime.peer import Peer
from relay.control import Answer, ControlTable
from relay.dial import SOFTWARE
from relay.door import Door
from relay.fallback import Fallback
from relay.fallbackreport import FallbackReport
from relay.service import Relay
from relay.status import CertificateReport, ControlRequest, KeyReport, SocketReport, StatusReport
from relay.users import user_words

__all__ = ["control_table"]

# Together, so that `setup` answers within the patience of whoever types it.
CERTIFICATES_SECONDS = 30.0
SELECTION_SECONDS = 10.0  # an oracle answers from memory; the rest is for finding one
_CURVES = {
    Curve.ED25519: "ed25519",
    Curve.ED448: "ed448",
    Curve.P256: "nistp256",
    Curve.P384: "nistp384",
    Curve.P521: "nistp521",
}


def control_table(relay: Relay, peer: Peer) -> ControlTable:
    """Every question that the control socket answers to this peer."""

    async def status(request: ControlRequest) -> Answer:
        return _status(relay, await relay.wanted_fallback(), request)

    async def certificates(_: ControlRequest) -> Answer:
        return await _certificates(relay)

    async def key_for(request: ControlRequest) -> Answer:
        return await _key_for(relay, request)

    async def fallback(request: ControlRequest) -> Answer:
        return await _switch(relay, peer, request)

    return {"status": status, "certificates": certificates, "key_for": key_for, "fallback": fallback}


async def _switch(relay: Relay, peer: Peer, request: ControlRequest) -> FallbackReport:
    # The socket's group may read how the relay is; whoever may use gpg here must not switch anything.
    if peer.uid not in {0, os.geteuid()}:
        raise ConfigError("only root and the relay's own user may switch fallback", "sudo blind-oracle-relay fallback")
    fallback = await relay.wanted_fallback()
    await fallback.switch(request.mode, request.seconds, request.reason, user_words(peer.uid))
    return fallback.report()


def _status(relay: Relay, fallback: Fallback, request: ControlRequest) -> StatusReport:
    relay.log.write_late()
    return StatusReport(
        runner=relay.config.name,
        software=SOFTWARE,
        pid=os.getpid(),
        started=relay.started,
        connection=relay.client.state,
        sockets=tuple(map(_socket_report, relay.doors)),
        gpg_connections=relay.connections,
        waiting=relay.client.waiting,
        counts={outcome.value: count for outcome, count in relay.log.counts.items()},
        moved=relay.client.moved,
        oracles=relay.client.oracles,
        keys=tuple(map(_key_report, relay.keys.served)),
        heads=relay.heads.all(),
        fallback=fallback.report(),
        last=tuple(relay.log.last(request.last)),
    )


async def _certificates(relay: Relay) -> CertificateReport:
    # Each key's, also of one primary: the oracle has of a certificate what was imported with that key.
    certificates: dict[bytes, None] = {}
    with trio.move_on_after(CERTIFICATES_SECONDS) as patience:
        await relay.keys.known()  # on a new host `setup` is what starts the relay, before any oracle was asked
        for key in relay.keys.served:
            certificates[await relay.client.certificate(key.facts.fingerprint)] = None
    if patience.cancelled_caught:
        raise ConfigError(f"the oracle did not send all public keys within {CERTIFICATES_SECONDS:.0f} s", "try again")
    own = await relay.wanted_fallback()
    file = own.places.certificate
    try:
        certificates[await trio.to_thread.run_sync(file.read_bytes)] = None
    except FileNotFoundError:
        pass  # this host has no key of its own
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", f"ls -ld {file}") from error
    return CertificateReport(tuple(certificates), tuple(str(door.path) for door in relay.doors))


async def _key_for(relay: Relay, request: ControlRequest) -> KeyReport:
    if request.distribution is None:
        raise ConfigError("key_for: expected a distribution")
    answer = await relay.client.select_key(request.distribution, request.key_type, SELECTION_SECONDS)
    if isinstance(answer, Refused):
        raise RefusedError(answer.code, answer.reason)
    return _key_report(answer)


def _socket_report(door: Door) -> SocketReport:
    return SocketReport(door.name, str(door.path), tuple(sorted(door.keys)), door.distribution)


def _key_report(key: ServedKey) -> KeyReport:
    facts = key.facts
    return KeyReport(
        name=facts.name,
        key_type=key.key_type,
        keygrip=facts.keygrip,
        fingerprint=facts.fingerprint,
        primary=facts.primary,
        user_id=facts.user_id,
        algorithm=_gpg_name(facts.public_key),
        created=facts.created,
        expires=facts.expires,
    )


def _gpg_name(key: PublicKey) -> str:
    """The algorithm as gpg names it."""
    return _CURVES[key.curve] if isinstance(key, EccPublicKey) else f"{key.algorithm}{key.bits}"
