"""A relay that signs by itself: real gpg, a real gpg-agent with the host's key, an oracle that comes and goes."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import KeyFacts
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.oracle_messages import Failed, KeysChanged, Refused, Rejected
from agentproxy.protocol.unstructure import unstructured
from agentproxy.runtime.peer import Peer
from relay import delivery, fallback, fallbackrule, localagent
from relay.daemon import serve
from relay.errors import RejectedError
from relay.fallbackkeys import FallbackKeys, KeyFile
from relay.fallbackmode import FallbackConfig, FallbackMode, FallbackPlaces
from relay.fallbackreport import fallback_lines
from relay.fallbacksetup import Wish, set_up
from relay.fallbackswitch import Switch, SwitchKeeper
from relay.journalreading import Reading, read
from relay.localagent import LocalAgent
from relay.metrics import RelayMetrics
from relay.service import Relay
from relay.status import ControlRequest
from relay.statusanswers import control_table
from tests.end_to_end.assuanclient import AssuanClient, AssuanError
from tests.relay.activation import SECONDS, until
from tests.relay.conftest import Runner, relay_config, run_gpg
from tests.relay.test_sealer import KEY
from tests.trees import remove_tree

ROOT = Peer(1, 0, 0, (0,))
DIGEST = Digest(HashAlgorithm.SHA256, bytes(range(32)))


@dataclass
class Host:
    """A runner with a key of its own."""

    runner: Runner
    own: KeyFacts

    @property
    def places(self) -> FallbackPlaces:
        return FallbackPlaces.of(self.runner.config.state, self.runner.config.fallback)

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[Relay]:
        async with trio.open_nursery() as nursery:
            yield await nursery.start(serve, self.runner.config)
            nursery.cancel_scope.cancel()

    def with_auto(self, after_seconds: int = 1, deadline_seconds: int = 30) -> None:
        auto = FallbackConfig(FallbackMode.AUTO, after_seconds)
        self.runner.config = replace(self.runner.config, fallback=auto, deadline_seconds=deadline_seconds)

    async def sign(self, data: bytes = b"package") -> subprocess.CompletedProcess[bytes]:
        return await self.runner.gpg("--detach-sign", "-o", "-", stdin=data)

    async def signer_of(self, data: bytes = b"package") -> str:
        """Whose key gpg takes when nobody names one: "own", "oracle", or "nobody"."""
        done = await self.sign(data)
        if done.returncode:
            return "nobody"
        file = self.runner.directory / "made"
        await trio.Path(file).write_bytes(done.stdout)
        checked = await self.runner.gpg("--status-fd", "1", "--verify", str(file), "-", stdin=data)
        assert checked.returncode == 0, checked.stderr
        return "own" if f"VALIDSIG {self.own.fingerprint} ".encode() in checked.stdout else "oracle"

    def read(self) -> Reading:
        return read(self.places.journal)

    @property
    def journal(self) -> list[bytes]:
        return list(self.read().lines) if self.places.journal.exists() else []


@pytest.fixture(scope="module", name="made")
def made_fallback_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `fallback setup` leaves, made once."""
    state = Path(tempfile.mkdtemp(prefix="bo", dir="/tmp"))
    try:
        config = replace(relay_config(state), state=state)
        set_up(config, Wish(None, "rsa2048", "1y"))
        home = FallbackPlaces.of(state, FallbackConfig()).home
        forget(home)
        yield state / "fallback"
    finally:
        remove_tree(state)


def forget(home: Path) -> None:
    for words in (("--kill", "gpg-agent"), ("--remove-socketdir",)):
        subprocess.run(["gpgconf", "--homedir", home, *words], check=False, capture_output=True, timeout=60)


@pytest.fixture
def host(runner: Runner, made: Path) -> Iterator[Host]:
    places = FallbackPlaces.of(runner.config.state, FallbackConfig())
    shutil.copytree(made, places.directory, ignore=shutil.ignore_patterns("S.*"))
    run_gpg(runner.home, "--import", str(places.certificate))
    (own,) = FallbackKeys(places.keys).all()
    runner.oracle.fallback = True
    try:
        yield Host(runner, own)
    finally:
        forget(places.home)


async def switch(relay: Relay, mode: FallbackMode | None, seconds: int = 3600, peer: Peer = ROOT) -> None:
    request = ControlRequest("fallback", mode=mode, seconds=seconds, reason="a test")
    await control_table(relay, peer)["fallback"](request)


async def connected(relay: Relay) -> None:
    """Wait for the oracle's word, and until the next start would know that it allows: it is written behind the word."""
    permission = relay._permission
    await until(lambda: relay.client.unreachable_since is None and permission.verdict.by)
    await until(lambda: not permission.verdict.allowed or permission._path.exists())


def is_active(relay: Relay) -> bool:
    return relay.fallback is not None and relay.fallback.way(relay.doors[0]) is not None


async def test_auto_waits_for_its_time_signs_by_itself_and_ends_when_an_oracle_is_back(host: Host) -> None:
    host.with_auto()
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        assert await host.signer_of() == "oracle"
    async with host.relay() as relay:
        assert not is_active(relay)
        await until(lambda: is_active(relay))
        assert await host.signer_of() == "own"
        assert len(host.journal) == 1
        async with host.runner.running_oracle():
            await until(lambda: not is_active(relay))
            await until(lambda: host.runner.oracle.reported)
            assert await host.signer_of() == "oracle"
    assert [record.mode for record in host.runner.oracle.reported] == ["auto"]


async def test_without_the_oracles_word_there_is_no_fallback_however_long_none_answers(host: Host) -> None:
    host.runner.oracle.fallback = False
    host.with_auto(deadline_seconds=5)  # gpg waits for an oracle until then
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
    async with host.relay() as relay:
        with pytest.raises(ConfigError, match="no oracle has allowed it yet"):
            await switch(relay, FallbackMode.FORCED)
        await until(lambda: trio.current_time() - (relay.client.unreachable_since or 0) > 1)
        assert not is_active(relay)
        assert await host.signer_of() == "nobody"
    assert host.journal == []


@pytest.mark.parametrize(
    ("code", "active"), [(RejectionCode.TOKEN_REVOKED, False), (RejectionCode.NOT_OPERATIONAL, True)]
)
async def test_an_oracle_that_turns_this_runner_away_is_no_outage(
    host: Host, code: RejectionCode, active: bool
) -> None:
    host.with_auto()
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
    host.runner.oracle.rejection = Rejected(code)
    async with host.runner.running_oracle(), host.relay() as relay:
        await until(lambda: trio.current_time() - (relay.client.unreachable_since or 0) > 1)
        await until(lambda: is_active(relay) if active else not relay._permission.verdict.allowed)
        assert is_active(relay) is active
        assert relay._permission.verdict.allowed is active
        if not active:
            assert relay.fallback is not None
            said = "\n".join(fallback_lines(relay.fallback.report()))
            assert f"an oracle took the permission back, since {RejectedError(code)}: once it takes" in said
            assert "must say" not in said  # the policy may well do so


async def test_the_mode_is_fixed_for_a_connection(host: Host) -> None:
    grip = str(host.own.keygrip)
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        client = await trio.to_thread.run_sync(AssuanClient, host.runner.socket)
        with client:
            await switch(relay, FallbackMode.NEVER, 0)
            assert not is_active(relay)
            await trio.to_thread.run_sync(client.sign, grip, DIGEST)
            oracles = str(host.runner.keys.facts["rsa"].keygrip)
            with pytest.raises(AssuanError):
                await trio.to_thread.run_sync(client.sign, oracles, DIGEST)
        second = await trio.to_thread.run_sync(AssuanClient, host.runner.socket)
        with second:
            await trio.to_thread.run_sync(second.sign, oracles, DIGEST)
            with pytest.raises(AssuanError):
                await trio.to_thread.run_sync(second.sign, grip, DIGEST)
    assert len(host.journal) == 3  # two switches, one signature


async def test_the_oracles_no_and_the_end_of_a_switch_reach_connections_that_are_held_open(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    grip = str(host.own.keygrip)
    oracle = host.runner.oracle
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        with await trio.to_thread.run_sync(AssuanClient, host.runner.socket) as client:
            await trio.to_thread.run_sync(client.sign, grip, DIGEST)
            oracle.tell(KeysChanged(oracle.keys, fallback=False))
            await until(lambda: not relay._permission.verdict.allowed)
            with pytest.raises(AssuanError):
                await trio.to_thread.run_sync(client.sign, grip, DIGEST)
            assert relay.log.last(1)[0].code == "fallback_over"
            oracle.tell(KeysChanged(oracle.keys, fallback=True))
            await until(lambda: relay._permission.verdict.allowed)
            await trio.to_thread.run_sync(client.sign, grip, DIGEST)
            await switch(relay, FallbackMode.NEVER, 0)
            await trio.to_thread.run_sync(client.sign, grip, DIGEST)
            monkeypatch.setattr(fallbackrule, "LATE_SECONDS", 0.0)
            with pytest.raises(AssuanError):
                await trio.to_thread.run_sync(client.sign, grip, DIGEST)


async def test_a_relay_stays_for_what_it_has_to_deliver_and_for_what_it_counts(host: Host) -> None:
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        await until(lambda: host.runner.oracle.reported)
        await until(lambda: not relay.has_duties())
        assert await host.signer_of() == "own"
    async with host.relay() as relay:
        assert await host.signer_of() == "own"
        assert relay.has_duties()
    host.with_auto(after_seconds=1000)
    (host.places.directory / "switch.json").unlink()
    async with host.runner.running_oracle(), host.relay() as relay:
        await until(lambda: not relay.has_duties())
    async with host.relay() as relay:
        assert relay.has_duties()


async def test_of_two_switches_at_once_the_one_recorded_last_is_in_force(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, begun, go_on, off = SwitchKeeper.set, threading.Event(), threading.Event(), threading.Event()

    def held_up(self: SwitchKeeper, mode: FallbackMode, seconds: int, reason: str, by: str) -> Switch:
        if mode is FallbackMode.FORCED:
            begun.set()
            assert go_on.wait(SECONDS)
        made = store(self, mode, seconds, reason, by)
        if mode is FallbackMode.NEVER:
            off.set()
        return made

    monkeypatch.setattr(SwitchKeeper, "set", held_up)
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(switch, relay, FallbackMode.FORCED)
            await until(begun.is_set)
            fallback = relay.fallback
            assert fallback is not None
            nursery.start_soon(switch, relay, FallbackMode.NEVER)
            await until(lambda: off.is_set() or fallback._parts.pen.statistics().tasks_waiting)
            go_on.set()
        assert not is_active(relay)

    modes = [json.loads(line)["mode"] for line in host.journal if json.loads(line)["operation"] == "switch"]
    assert modes == ["forced", "never"]


async def test_metrics_tell_when_the_hosts_own_key_ends_before_anybody_needs_it(host: Host) -> None:
    async with host.relay() as relay:
        text = (await RelayMetrics(relay).render()).decode()
    name = f'blind_oracle_relay_expiry_timestamp_seconds{{what="own key {host.own.fingerprint}"}}'
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    assert host.own.expires is not None
    assert float(line.split()[-1]) == host.own.expires.timestamp()


async def test_metrics_tell_whether_the_host_signs_with_its_own_key(host: Host) -> None:
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        for mode, told in ((FallbackMode.FORCED, "1.0"), (FallbackMode.NEVER, "0.0")):
            await switch(relay, mode)
            assert f"\nblind_oracle_relay_fallback_active {told}\n" in (await RelayMetrics(relay).render()).decode()


async def test_metrics_tell_no_end_of_an_own_key_that_another_has_replaced(host: Host) -> None:
    soon = datetime.now(UTC)

    def own(digit: str, expires: datetime | None, user_id: str) -> KeyFacts:
        return replace(host.own, fingerprint=Fingerprint.parse(digit * 40), expires=expires, user_id=user_id)

    replaced = (own("A", soon, "b1"), own("B", soon + timedelta(365), "b1"), own("C", soon, "b2"), own("D", None, "b2"))
    plain = unstructured(KeyFile((*replaced, own("E", soon, "b3"))))
    host.places.keys.write_text(json.dumps(plain))
    async with host.relay() as relay:
        text = (await RelayMetrics(relay).render()).decode()
    assert set(re.findall('what="own key (.)', text)) == {"B", "E"}


async def test_metrics_say_once_that_the_hosts_own_keys_cannot_be_read(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.places.keys.write_text("no keys")
    async with host.relay() as relay:
        metrics = RelayMetrics(relay)
        caplog.clear()
        for _ in range(3):
            await metrics.render()
    assert caplog.text.count("the fallback's keys are not read") == 1


async def test_only_root_and_the_relays_user_may_switch(host: Host) -> None:
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        with pytest.raises(ConfigError, match="only root"):
            await switch(relay, FallbackMode.FORCED, peer=Peer(1, os.geteuid() + 4242, 0, (0,)))
        assert not is_active(relay)


async def test_an_oracles_key_that_somebody_put_beside_ours_is_named_when_fallback_begins(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not used either way: only what `setup` noted is."""
    host.with_auto()
    stray = host.runner.keys.facts["rsa"]
    (other,) = [
        file for file in (host.places.home / "private-keys-v1.d").iterdir() if file.stem != str(host.own.keygrip)
    ]
    grip = Keygrip.parse(other.stem)
    public_key = await LocalAgent(host.places.home).public_key(grip)
    served = replace(host.runner.oracle.keys[0], facts=replace(stray, keygrip=grip, public_key=public_key))
    host.runner.oracle.keys = (served,)
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await until(lambda: relay.keys.served == (served,))
    async with host.relay() as relay:
        await until(lambda: "an oracle's key lies in the fallback's home" in caplog.text)
        assert relay.fallback is not None
        assert relay.fallback.report().refused == (f"{stray.fingerprint}: an oracle's key lies in the home",)
        assert await host.signer_of() == "own"


async def test_forty_at_once_are_forty_records_of_one_chain(host: Host) -> None:
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        signers: list[str] = []

        async def one(number: int) -> None:
            done = await host.sign(b"package %d" % number)
            signers.append("own" if done.returncode == 0 else done.stderr.decode())

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(one, number)
        assert signers == ["own"] * 40
        await until(lambda: len(host.runner.oracle.reported) == 41)
    reading = host.read()
    assert (reading.damage, reading.end.sequence) == ("", 41)
    assert [record.sequence for record in host.runner.oracle.reported] == list(range(1, 42))


async def test_an_agent_that_died_is_started_again(host: Host) -> None:
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        assert await host.signer_of() == "own"
        await trio.to_thread.run_sync(forget, host.places.home)
        assert await host.signer_of() == "own"


def agent_pid(home: Path) -> int:
    words = ["gpg-connect-agent", "--homedir", str(home), "--no-autostart", "GETINFO pid", "/bye"]
    shown = subprocess.run(words, capture_output=True, check=True, text=True, timeout=60).stdout
    return int(shown.split()[1])


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")


async def test_an_agent_that_hangs_costs_its_own_deadline_and_no_record(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        assert await host.signer_of() == "own"
        monkeypatch.setattr(localagent, "AGENT_SECONDS", 1.0)
        pid, before = await trio.to_thread.run_sync(agent_pid, host.places.home), len(host.journal)
        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: is_stopped(pid))  # the signal is only on its way when kill returns
            done = await host.sign()
            assert is_stopped(pid)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert done.returncode == 2, relay.log.last(1)
        assert b"No agent running" in done.stderr
        assert relay.log.last(1)[0].reason == "the local agent did not answer within 1 s"
        assert len(host.journal) == before
        monkeypatch.undo()
        assert await host.signer_of() == "own"


async def test_a_wrong_key_in_the_home_never_gets_a_signature_out(host: Host) -> None:
    """Somebody put another key in the place of ours: its signature does not fit, and there is no record."""
    secrets = host.places.home / "private-keys-v1.d"
    (other,) = [file for file in secrets.iterdir() if file.stem != str(host.own.keygrip)]  # the certificate's primary
    shutil.copy(other, secrets / f"{host.own.keygrip}.key")
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        done = await host.sign()
        assert done.returncode == 2
        assert b"Bad signature" in done.stderr
        assert relay.log.last(1)[0].code == "bad_signature"
    assert len(host.journal) == 1  # the switch


async def test_an_oracles_key_in_the_home_is_refused_unless_relay_yaml_names_it(host: Host) -> None:
    served = replace(host.runner.oracle.keys[0], facts=host.own)
    host.runner.oracle.keys = (served,)
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await until(lambda: relay.keys.served == (served,))
        with pytest.raises(ConfigError, match=r"the oracle's key; fallback\.accept_oracle_keys does not name it"):
            await switch(relay, FallbackMode.FORCED)
        assert not is_active(relay)
    accepting = FallbackConfig(accept_oracle_keys=(host.own.fingerprint,))
    host.runner.config = replace(host.runner.config, fallback=accepting)
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        assert await host.signer_of() == "own"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_with_the_journals_disk_full_there_is_no_local_signature(host: Host) -> None:
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
    await until(lambda: not host.read().mark or host.read().words)
    kept = {file.name: file.read_bytes() for file in host.places.directory.iterdir() if file.is_file()}
    # A copy: an agent that the first relay has started would go on serving a home that moves, and find nothing there.
    home = host.runner.directory / "own-home"
    shutil.copytree(host.places.home, home, ignore=shutil.ignore_patterns("S.*"))
    host.runner.config = replace(host.runner.config, fallback=FallbackConfig(home=home))
    run_as_root("mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(host.places.directory))
    try:
        for name, content in kept.items():
            (host.places.directory / name).write_bytes(content)
        async with host.relay() as relay:
            await until(lambda: is_active(relay))
            filler = fill(host.places.directory)
            before = len(host.journal)
            done = await host.sign()
            assert done.returncode == 2
            assert b"Not operational" in done.stderr
            assert "No space left" in relay.log.last(1)[0].reason
            assert len(host.journal) == before
            filler.unlink()
            assert await host.signer_of() == "own"
        assert host.read().damage == ""
    finally:
        forget(home)
        run_as_root("umount", "-l", str(host.places.directory))


def run_as_root(*words: str) -> None:
    subprocess.run(words, check=True, timeout=20)


def fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


async def test_a_changed_journal_stops_local_signatures_until_somebody_looked(host: Host) -> None:
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        assert await host.signer_of() == "own"
    lines = host.places.journal.read_bytes().replace(b"a test", b"a TEST")
    host.places.journal.write_bytes(lines)
    async with host.relay() as relay:
        done = await host.sign()
        assert done.returncode == 2
        assert relay.fallback is not None
        # Whichever shows first: the chain, or what an oracle has already got of it.
        trouble = relay.fallback.report().journal.trouble
        assert "record 2 does not continue" in trouble or "record 1 is not the one that an oracle has" in trouble


async def test_a_journal_that_is_changed_under_a_running_relay_stops_it_until_it_is_moved_away(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(delivery, "LAST_RETRY_SECONDS", 0.01)
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        assert await host.signer_of() == "own"
        assert relay.fallback is not None
        report = relay.fallback.report
        await until(lambda: not report().journal.undelivered)
        with host.places.journal.open("r+b") as file:
            file.seek(file.read().index(b"a test"))
            file.write(b"a TES")
        assert host.read().damage
        for _ in range(2):
            done = await host.sign()
            assert done.returncode == 2
            assert b"Not operational" in done.stderr
        assert "record 2 does not continue" in relay.log.last(1)[0].reason
        assert "record 2 does not continue" in report().journal.trouble
        with pytest.raises(ConfigError, match="not switched: record 2 does not continue") as caught:
            await switch(relay, FallbackMode.AUTO)
        assert "then move both away together" in caught.value.hint
        relay.fallback._delivery.wake()
        await until(lambda: relay.fallback and relay.fallback._delivery.trouble)
        first = host.read().mark
        for file_name in ("journal.jsonl", "delivered.json"):
            (host.places.directory / file_name).rename(host.runner.directory / file_name)
        await until(lambda: not report().journal.trouble)
        assert await host.signer_of() == "own"
        assert len(host.journal) == 1
        await until(lambda: not report().journal.undelivered)
        assert (report().journal.trouble, host.read().damage) == ("", "")
        assert first is not None
        assert first.journal != report().journal.journal
        assert {record.journal for record in host.runner.oracle.reported} == {first.journal, report().journal.journal}
    async with host.relay() as relay:
        await switch(relay, FallbackMode.FORCED)
        assert await host.signer_of() == "own"
    assert host.read().end.sequence == 3


async def test_a_report_that_the_oracle_cannot_take_now_comes_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FIRST_RETRY_SECONDS", 0.01)
    host.runner.oracle.report_answers = [
        Failed("0" * 32, FailureCode.NOT_OPERATIONAL, retryable=True),
        Refused("0" * 32, RefusalCode.RATE_LIMITED, "too many", 100),
    ]
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await switch(relay, FallbackMode.FORCED)
        await until(lambda: host.runner.oracle.reported)
        assert relay.fallback is not None
        report = relay.fallback.report
        await until(lambda: not report().journal.undelivered and not report().journal.trouble)


async def test_what_was_recorded_in_an_outage_too_short_to_be_noticed_is_delivered_behind_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "TICK_SECONDS", 3600.0)
    oracle = host.runner.oracle
    async with host.runner.running_oracle():
        pass  # from now on it has an address
    async with host.relay() as relay:
        async with host.runner.running_oracle():
            await connected(relay)
            await switch(relay, FallbackMode.FORCED)
            await until(lambda: len(oracle.reported) == 1)
        await until(lambda: relay.client.unreachable_since is not None)
        await switch(relay, FallbackMode.FORCED)
        async with host.runner.running_oracle():
            await until(lambda: len(oracle.reported) == 2)


async def test_a_switch_that_cannot_be_recorded_is_none_and_off_works_all_the_same(host: Host) -> None:
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        host.places.journal.mkdir()
        with pytest.raises(ConfigError, match="not switched"):
            await switch(relay, FallbackMode.FORCED)
        assert not is_active(relay)
        await switch(relay, FallbackMode.NEVER, 0)


async def test_own_certificates_that_cannot_be_read_are_named_to_whoever_sets_up_a_home(host: Host) -> None:
    host.runner.oracle.keys = ()
    host.places.certificate.unlink()
    host.places.certificate.mkdir()  # root, too, cannot read that
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        with pytest.raises(ConfigError, match=rf"{host.places.certificate}: cannot be read: Is a directory"):
            await control_table(relay, ROOT)["certificates"](ControlRequest("certificates"))


async def test_setup_done_again_adds_a_key_beside_the_one_that_will_end(host: Host) -> None:
    done = await trio.to_thread.run_sync(set_up, host.runner.config, Wish(None, "rsa2048", "1y"))
    old, new = sorted(done.keys, key=lambda key: key.fingerprint != host.own.fingerprint)
    assert old == host.own
    assert new.user_id == old.user_id
    assert set(FallbackKeys(host.places.keys).all()) == {old, new}


async def test_setup_refuses_an_oracles_key_and_imports_nothing_of_it(host: Host, tmp_path: Path) -> None:
    served = replace(host.runner.oracle.keys[0], facts=host.own)
    host.runner.oracle.keys = (served,)
    async with host.runner.running_oracle(), host.relay() as relay:
        await connected(relay)
        await until((host.runner.config.state / "keys.json").exists)
    exported = tmp_path / "secret"
    exported.write_bytes(run_gpg(host.places.home, "--export-secret-subkeys", f"{host.own.fingerprint}!").stdout)
    forget(host.places.home)
    shutil.rmtree(host.places.directory)
    with pytest.raises(ConfigError, match="this is the oracle's key"):
        await trio.to_thread.run_sync(set_up, host.runner.config, Wish(exported, "", ""))
    assert not list(host.places.home.glob("private-keys-v1.d/*"))
    assert not host.places.keys.exists()


async def test_setup_refuses_a_key_that_can_certify_and_one_that_is_not_there(host: Host, tmp_path: Path) -> None:
    whole, public, pipe = tmp_path / "whole", tmp_path / "public", tmp_path / "pipe"
    os.mkfifo(pipe)
    whole.write_bytes(run_gpg(host.places.home, "--export-secret-keys").stdout)
    public.write_bytes(run_gpg(host.places.home, "--export").stdout)
    unfit = ((whole, "it can certify"), (public, "no secret key for signing"), (pipe, "expected a file"))
    for file, words in (*unfit, (tmp_path / "no", "no")):
        with pytest.raises(ConfigError, match=words):
            await trio.to_thread.run_sync(set_up, host.runner.config, Wish(file, "", ""))


def test_keys_that_cannot_be_read_for_a_moment_are_there_again_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    plain = unstructured(KeyFile((KEY.facts,)))
    file.write_text(json.dumps(plain))
    keys = FallbackKeys(file)

    def crowded(path: Path, mode: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", crowded)
        assert [keys.all(), keys.all()] == [(), ()]
    assert keys.all() == (KEY.facts,)
    assert caplog.text.count("Too many open files") == 1
