"""A runner with real gpg, a relay with real TLS, and an oracle that holds the only secret keys."""

import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trustme

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.fields import KeyFacts
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.oracle_messages import Credentials
from agentproxy.runtime.tlscontext import server_context
from agentproxy.signer import keyfile
from agentproxy.signer.software import SoftwareBackend
from relay.config import OracleAddress, RelayConfig, SocketConfig
from relay.credentials import CredentialStore, credentials_directory
from relay.daemon import serve
from relay.service import Relay
from tests.relay.fakeoracle import FakeOracle
from tests.trees import remove_tree

GPG_SECONDS = 60.0
TOKEN = "bo_" + "t" * 43
KEYS = {"rsa": "rsa2048", "ed": "ed25519"}


def run_gpg(home: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = ["gpg", "--homedir", str(home), "--batch", "--no-tty", "--quiet", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=120)


@dataclass(frozen=True)
class Keys:
    """What a release engineer has: certificates for everybody, secret keys for the oracle alone."""

    certificates: bytes
    facts: dict[str, KeyFacts]
    backend: SoftwareBackend


@pytest.fixture(scope="session")
def keys() -> Iterator[Keys]:
    home = Path(tempfile.mkdtemp(prefix="bo", dir="/tmp"))
    try:
        facts = {name: make_key(home, name, algorithm) for name, algorithm in KEYS.items()}
        secrets = {one.keygrip: keyfile.load(home, one.keygrip) for one in facts.values()}
        yield Keys(run_gpg(home, "--export").stdout, facts, SoftwareBackend(secrets))
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=True, timeout=30)
        remove_tree(home)


def make_key(home: Path, name: str, algorithm: str) -> KeyFacts:
    user_id = f"{name} <{name}@example.org>"
    run_gpg(home, "--passphrase", "", "--quick-gen-key", user_id, algorithm, "sign", "never")
    rows = run_gpg(home, "--with-colons", "--with-keygrip", "--list-keys", f"={user_id}").stdout.decode()
    values = {row[:3]: row.split(":")[9] for row in rows.splitlines() if row[:3] in {"grp", "fpr"}}
    grip, fingerprint = Keygrip.parse(values["grp"]), Fingerprint.parse(values["fpr"])
    public = keyfile.load(home, grip).public
    allowed = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
    created = datetime(2026, 1, 1, tzinfo=UTC)
    return KeyFacts(name, fingerprint, fingerprint, grip, public, allowed, False, created, user_id=user_id)


@dataclass
class Runner:
    """A build server: a GnuPG home with public keys only, a relay's configuration, and the oracle far away."""

    directory: Path
    config: RelayConfig
    oracle: FakeOracle
    keys: Keys
    authority: trustme.CA
    redirect: Path  # where gpg looks for its agent
    log: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.directory / "gnupg"

    @property
    def socket(self) -> Path:
        return self.config.sockets[0].path

    def with_deadline(self, seconds: int) -> None:
        self.config = replace(self.config, deadline_seconds=seconds)

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[Relay]:
        async with trio.open_nursery() as nursery:
            yield await nursery.start(serve, self.config)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def running_oracle(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.oracle.serve)
            self.config = replace(self.config, oracles=(OracleAddress(f"127.0.0.1:{self.oracle.port}", "localhost"),))
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def both(self) -> AsyncIterator[Relay]:
        async with self.running_oracle(), self.relay() as relay:
            yield relay

    async def gpg(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--no-tty", *arguments]
        environment = {**os.environ, "LC_ALL": "C"}
        with trio.fail_after(GPG_SECONDS):
            return await trio.run_process(
                command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, env=environment
            )

    async def sign(self, key: str = "rsa", data: bytes = b"package") -> subprocess.CompletedProcess[bytes]:
        return await self.gpg("-u", str(self.keys.facts[key].fingerprint) + "!", "--detach-sign", "-o", "-", stdin=data)

    async def verifies(self, signature: bytes, data: bytes = b"package") -> bool:
        file = self.directory / "signature"
        await trio.Path(file).write_bytes(signature)
        return (await self.gpg("--verify", str(file), "-", stdin=data)).returncode == 0


def write_credentials(directory: Path, authority: trustme.CA, name: str = "b1") -> None:
    issued = authority.issue_cert(name)
    authority.cert_pem.write_to_path(directory / "authority.crt")
    issued.private_key_pem.write_to_path(directory / "client.key")
    (directory / "client.key").chmod(0o600)
    (directory / "client.crt").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    (directory / "token").write_text(TOKEN + "\n")
    (directory / "token").chmod(0o600)


def relay_config(directory: Path) -> RelayConfig:
    return RelayConfig(
        name="b1",
        oracles=(OracleAddress("127.0.0.1:9", "localhost"),),
        authority=directory / "authority.crt",
        certificate=directory / "client.crt",
        key=directory / "client.key",
        token=directory / "token",
        state=directory / "state",
        sockets=(SocketConfig(directory / "run" / "S.gpg-agent"),),
        claims_ms=10_000,  # on a busy machine the usual few milliseconds may not do
    )


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def runner(keys: Keys, authority: trustme.CA) -> Iterator[Runner]:
    directory = Path(tempfile.mkdtemp(prefix="bo", dir="/tmp"))
    try:
        for name in ("gnupg", "run", "state"):
            (directory / name).mkdir(mode=0o700)
        write_credentials(directory, authority)
        config = relay_config(directory)
        # As `setup` does: where gpg looks for its agent it finds where the relay is.
        (directory / "gnupg" / "gpg.conf").write_text("no-autostart\n")
        run_gpg(directory / "gnupg", "--import", stdin=keys.certificates)
        agent = subprocess.run(
            ["gpgconf", "--homedir", str(directory / "gnupg"), "--list-dirs", "agent-socket"],
            capture_output=True, check=True, text=True, timeout=30,
        ).stdout.strip()  # fmt: skip
        Path(agent).write_text(f"%Assuan%\nsocket={config.sockets[0].path}\n")
        oracle = FakeOracle(oracle_context(directory, authority), keys.backend, tuple(keys.facts.values()))
        yield Runner(directory, config, oracle, keys, authority, Path(agent))
        if not agent.startswith(str(directory)):
            shutil.rmtree(Path(agent).parent)
    finally:
        remove_tree(directory)


def oracle_context(directory: Path, authority: trustme.CA) -> ssl.SSLContext:
    server = authority.issue_cert("localhost")
    server.private_key_pem.write_to_path(directory / "server.key")
    (directory / "server.crt").write_bytes(b"".join(pem.bytes() for pem in server.cert_chain_pems))
    return server_context(directory / "server.crt", directory / "server.key", directory / "authority.crt")


def lasting(runner: Runner, token: str) -> Credentials:
    """What an oracle gives for an enrolment file's credentials."""
    issued = runner.authority.issue_cert("b1")
    return Credentials(
        "b1",
        issued.cert_chain_pems[0].bytes().decode(),
        issued.private_key_pem.bytes().decode(),
        runner.authority.cert_pem.bytes().decode(),
        token,
        datetime.now(UTC) + timedelta(days=30),
    )


@pytest.fixture
def store(runner: Runner) -> CredentialStore:
    """A store with credentials, and a runner that uses it."""
    made = CredentialStore(credentials_directory(runner.config.state))
    made.replace(lasting(runner, TOKEN))
    current = made.current
    runner.config = replace(
        runner.config,
        authority=current.authority,
        certificate=current.certificate,
        key=current.key,
        token=current.token,
    )
    return made
