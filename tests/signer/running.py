"""A real signer process with real keys, and a client that speaks its socket."""

import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import yaml

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.frames import FrameReader, encode_frame
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.signer_messages import FROM_SIGNER, TO_SIGNER, FromSigner, ToSigner
from agentproxy.protocol.signer_requests import SignDigest
from agentproxy.protocol.times import format_time
from agentproxy.signer.authority import create_authority
from tests.signer.conftest import GnupgHome

BOUND_SECONDS = 20.0
NODE = "node-1"


@contextmanager
def state(home: GnupgHome, *names: str, **overrides: object) -> Iterator[Path]:
    """A state directory with everything that a signer needs; keys are served under their names in `home`."""
    directory = Path(tempfile.mkdtemp(prefix="bo", dir="/tmp"))
    try:
        (directory / "audit").mkdir()
        private = directory / "gnupg" / "private-keys-v1.d"
        private.mkdir(parents=True, mode=0o700)
        private.parent.chmod(0o700)
        for name in names:
            shutil.copy(home.path / "private-keys-v1.d" / f"{home.grips[name]}.key", private)
        key, certificate = create_authority(NODE, datetime.now(UTC))
        (directory / "authority.key").write_bytes(key)
        (directory / "authority.key").chmod(0o600)
        (directory / "authority.crt").write_bytes(certificate)
        write_keys(directory, home, *names)
        write_config(directory, **overrides)
        yield directory
    finally:
        shutil.rmtree(directory)


def write_keys(directory: Path, home: GnupgHome, *names: str, **overrides: object) -> None:
    keys = {
        name: {
            "fingerprint": home.fingerprints[name],
            "primary": home.fingerprints[name],
            "keygrip": str(home.grips[name]),
            "usage": ["sign"],
            "created": format_time(datetime(2020, 1, 1, tzinfo=UTC)),
            **overrides,
        }
        for name in names
    }
    (directory / "keys.yaml").write_text(yaml.safe_dump({"keys": keys}))


def write_config(directory: Path, **overrides: object) -> None:
    config = {
        "node": NODE,
        "socket": "signer.sock",
        "keys_file": "keys.yaml",
        "gnupg_home": "gnupg",
        "audit": {"directory": "audit", "reserve_bytes": 0},
        "authority": {"certificate": "authority.crt", "key": "authority.key"},
        **overrides,
    }
    (directory / "signer.yaml").write_text(yaml.safe_dump(config))


def start(directory: Path, *wrapper: str) -> subprocess.Popen[bytes]:
    """Start a signer and return at once; `connect` waits for it."""
    command = [*wrapper, sys.executable, "-m", "agentproxy.signer", "--config", str(directory / "signer.yaml")]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


@contextmanager
def signer(directory: Path, *wrapper: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running signer, ended in good order."""
    process = start(directory, *wrapper)
    try:
        with Client(directory):
            pass
        yield process
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=BOUND_SECONDS)
    sys.stderr.write(errors.decode())


class Client:
    """Speaks to a signer, waiting at most BOUND_SECONDS for anything."""

    def __init__(self, directory: Path) -> None:
        self.socket = _connect(directory / "signer.sock")
        self._reader = FrameReader()
        self._ids = itertools.count(1)

    def next_id(self) -> int:
        return next(self._ids)

    def send(self, *requests: ToSigner) -> None:
        self.socket.sendall(b"".join(encode_frame(TO_SIGNER.encode(request)) for request in requests))

    def receive(self) -> FromSigner | None:
        """The next answer; None when the signer closed the connection."""
        while (payload := self._reader.next_payload()) is None:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._reader.receive_data(data)
        return FROM_SIGNER.decode(payload)

    def ask(self, request: ToSigner) -> FromSigner | None:
        self.send(request)
        return self.receive()

    def sign(self, grip: Keygrip, number: int = 0) -> FromSigner | None:
        return self.ask(sign_request(self.next_id(), grip, number))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def sign_request(id_: int, grip: Keygrip, number: int = 0) -> SignDigest:
    digest = Digest(HashAlgorithm.SHA512, number.to_bytes(64, "big"))
    return SignDigest(id_, f"{number:032x}", grip, digest, Asserted(runner="builder"))


def _connect(path: Path) -> socket.socket:
    deadline = time.monotonic() + BOUND_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(BOUND_SECONDS)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)  # a poll with a bound: the process has no other way to say that it listens
        else:
            return connection


def logs_of(directory: Path) -> Sequence[Path]:
    return sorted((directory / "audit").glob("*.jsonl"))
