"""Clients that sign as fast as they can while parts of a system die, and keep count of what they really got."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.signer.record import signature_sha256
from tests.end_to_end.assuanclient import AssuanClient, AssuanError
from tests.end_to_end.place import Done, System, until

__all__ = ["Load", "gpg_load_on", "load_on"]


class Signs(Protocol):
    """Somewhere with a gpg that signs some text."""

    def sign(self, name: str) -> Done: ...


@dataclass(slots=True)
class Load:
    """What the clients saw; counted as docs/PROTOCOL.md defines `signature_sha256`."""

    digests: dict[str, str] = field(default_factory=dict)  # by signature_sha256: the digest, both hex
    signatures: list[str] = field(default_factory=list)  # armored ones that gpg wrote
    errors: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # how long each gpg took, whatever came of it
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def count(self) -> int:
        return len(self.digests) + len(self.signatures)

    def wait_for(self, more: int) -> None:
        """Until so many more signatures have come: whatever died is back."""
        goal = self.count + more
        until(lambda: self.count >= goal, f"{more} more signatures")

    def sign_raw(self, system: System, keygrip: str) -> None:
        while not self.over.is_set():
            try:
                with AssuanClient(system.socket) as client:
                    self._sign_over(client, keygrip)
            except (AssuanError, OSError) as error:
                self.errors.append(repr(error))
                self.over.wait(0.05)  # a relay that is away is not asked a million times

    def _sign_over(self, client: AssuanClient, keygrip: str) -> None:
        while not self.over.is_set():
            digest = Digest(HashAlgorithm.SHA256, secrets.token_bytes(32))
            signature = client.sign(keygrip, digest)
            self.digests[signature_sha256(signature).hex()] = digest.value.hex()

    def sign_with_gpg(self, system: Signs, name: str) -> None:
        while not self.over.is_set():
            started = time.monotonic()
            done = system.sign(name)
            self.seconds.append(time.monotonic() - started)
            if done.returncode == 0:
                self.signatures.append(done.stdout)
            else:
                self.errors.append(done.stderr)
                assert done.stdout == ""


@contextmanager
def load_on(system: System, keygrips: Sequence[str], gpg: Sequence[str] = ()) -> Iterator[Load]:
    """Two raw clients for each key and one endless row of gpg for each name, until the end of the block."""
    load = Load()
    assert system.environment  # found here: threads cannot, since the command line in this process is not for them
    tasks: list[Callable[[], None]] = []
    for keygrip in keygrips:
        tasks += [lambda grip=keygrip: load.sign_raw(system, grip)] * 2
    tasks += [lambda name=name: load.sign_with_gpg(system, name) for name in gpg]
    with _running(load, tasks):
        yield load


@contextmanager
def gpg_load_on(place: Signs, gpg: Sequence[str]) -> Iterator[Load]:
    """One endless row of gpg for each name, until the end of the block."""
    load = Load()
    with _running(load, [lambda name=name: load.sign_with_gpg(place, name) for name in gpg]):
        yield load


@contextmanager
def _running(load: Load, tasks: Sequence[Callable[[], None]]) -> Iterator[None]:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        load.over.set()
        for thread in threads:
            thread.join()
