"""`kill -9` at any moment: every signature that anybody got has its record, and the chain holds."""

import random
import threading
from pathlib import Path

from agentproxy.protocol.fields import Head
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.signer_answers import DigestSigned
from agentproxy.signer.diagnosis import DamageKind
from agentproxy.signer.record import signature_sha256
from agentproxy.signer.verifylog import verify
from tests.signer.conftest import GnupgHome
from tests.signer.logs import records_in
from tests.signer.running import BOUND_SECONDS, Client, sign_request, signer, start, state

KILLS = 20
WINDOW = 32  # requests in flight


def _sign_until_it_dies(directory: Path, grip: Keygrip, first: int, delay: float) -> list[DigestSigned]:
    """Start a signer, load it with digests from `first` on, kill it after `delay` seconds; what came out?"""
    process = start(directory)
    received: list[DigestSigned] = []
    try:
        with Client(directory) as client:
            client.send(*(sign_request(number, grip, number) for number in range(first, first + WINDOW)))
            killer = threading.Timer(delay, process.kill)
            killer.start()
            try:
                while isinstance(answer := client.receive(), DigestSigned):
                    received.append(answer)
                    client.send(sign_request(answer.id + WINDOW, grip, answer.id + WINDOW))
            except (BrokenPipeError, ConnectionResetError):
                pass
            killer.join(BOUND_SECONDS)
    finally:
        process.kill()
        process.communicate(timeout=BOUND_SECONDS)
    return received


def test_every_signature_ever_received_has_its_record(home: GnupgHome) -> None:
    chance = random.Random(20)
    received: dict[str, Head] = {}
    with state(home, "ed25519") as directory:
        for kill in range(KILLS):
            first, delay = kill * 1_000_000, chance.uniform(0.001, 0.2)
            for answer in _sign_until_it_dies(directory, home.grips["ed25519"], first, delay):
                received[signature_sha256(answer.signature).hex()] = answer.head
            damage = verify(directory / "audit", heads=[*received.values()][-1:]).damage
            # The kernel may end a write between two pages when its process is killed; the next start mends that.
            assert damage is None or damage.kind is DamageKind.TORN
        with signer(directory), Client(directory) as client:
            assert isinstance(client.sign(home.grips["ed25519"]), DigestSigned)
        recorded = {record["signature_sha256"] for record in records_in(directory / "audit")}
        assert len(received) > KILLS
        assert set(received) <= recorded
        assert verify(directory / "audit", heads=[*received.values()]).damage is None
