"""The signer's process from within, where a test decides how long reading the keys takes."""

import os
import signal
import threading
from datetime import UTC, datetime

import pytest
import trio
import trio.testing

from agentproxy import __version__
from agentproxy.protocol.signer_answers import Keys
from agentproxy.protocol.signer_requests import ListKeys
from agentproxy.runtime.config import load
from agentproxy.signer import daemon
from agentproxy.signer.authority import Authority
from agentproxy.signer.config import SignerConfig
from agentproxy.signer.keyring import Keyring, open_keyring
from agentproxy.signer.log import AuditLog
from tests.signer.conftest import GnupgHome
from tests.signer.logs import records_in
from tests.signer.running import BOUND_SECONDS, NODE, Client, state, write_keys


async def test_of_reloads_in_quick_succession_the_newest_keys_win(
    home: GnupgHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    reads: list[Keyring] = []

    def slowly(config: SignerConfig, now: datetime) -> Keyring:
        keyring = open_keyring(config, now)
        reads.append(keyring)
        if len(reads) == 1:
            began.set()
            assert go_on.wait(BOUND_SECONDS)
        return keyring

    with state(home, "ed25519", "p256") as directory:
        config = load(directory / "signer.yaml", SignerConfig)
        keyring = open_keyring(config, datetime.now(UTC))
        authority = Authority.load(config.authority.key.read_bytes(), config.authority.certificate.read_bytes())
        monkeypatch.setattr(daemon, "open_keyring", slowly)
        with AuditLog.open(config.audit.directory, NODE) as log, trio.fail_after(2 * BOUND_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon._serve, config, config.peers, keyring, authority, log)
                client = await trio.to_thread.run_sync(Client, directory)
                with client:
                    # An answer: from now on it takes signals.
                    assert isinstance(await trio.to_thread.run_sync(client.ask, ListKeys(1)), Keys)
                    os.kill(os.getpid(), signal.SIGHUP)
                    await trio.to_thread.run_sync(began.wait, BOUND_SECONDS)
                    write_keys(directory, home, "ed25519")
                    for _ in range(20):
                        os.kill(os.getpid(), signal.SIGHUP)
                        await trio.testing.wait_all_tasks_blocked(0.005)
                    go_on.set()
                os.kill(os.getpid(), signal.SIGTERM)
        reloaded = [record["details"] for record in records_in(directory / "audit")]
    both = {f"key.{name}": home.fingerprints[name] for name in ("ed25519", "p256")}
    one = {"key.ed25519": home.fingerprints["ed25519"]}
    assert reloaded == [{"version": __version__, **keys} for keys in (both, one)]
