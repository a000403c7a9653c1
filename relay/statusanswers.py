"""What the control socket tells about a relay. Imported at the first question, since most relays are never asked."""

import os

import trio

from agentproxy.protocol.messages import ServedKey
from relay.control import Answer, ControlTable
from relay.dial import SOFTWARE
from relay.door import Door
from relay.service import Relay
from relay.status import CertificateReport, ControlRequest, KeyReport, SocketReport, StatusReport

__all__ = ["control_table"]

# Together, so that `setup` answers within the patience of whoever types it.
CERTIFICATES_SECONDS = 30.0


def control_table(relay: Relay) -> ControlTable:
    """Every question that the control socket answers."""

    async def status(request: ControlRequest) -> Answer:
        await trio.lowlevel.checkpoint()
        return _status(relay, request)

    async def certificates(_: ControlRequest) -> Answer:
        return await _certificates(relay)

    return {"status": status, "certificates": certificates}


def _status(relay: Relay, request: ControlRequest) -> StatusReport:
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
        last=tuple(relay.log.last(request.last)),
    )


async def _certificates(relay: Relay) -> CertificateReport:
    certificates: dict[str, bytes] = {}
    with trio.move_on_after(CERTIFICATES_SECONDS):
        for key in relay.keys.served:
            if str(key.facts.primary) not in certificates:
                certificates[str(key.facts.primary)] = await relay.client.certificate(key.facts.fingerprint)
    return CertificateReport(tuple(certificates.values()), tuple(str(door.path) for door in relay.doors))


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
        algorithm=facts.public_key.algorithm,
        expires=facts.expires,
    )
