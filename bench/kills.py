"""Many gpg that sign as fast as they can while one oracle and then the other is killed and comes back."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.sides import ORACLE, RELAY, Key, environment_of

__all__ = ["DEADLINE_SECONDS", "Tally", "sign_beside_kills"]

DEADLINE_SECONDS = 10.0  # of a dev system's relay
_CLIENTS = 4
_STEP_SECONDS = 120.0
_LOOK_SECONDS = 0.05


@dataclass(slots=True)
class Tally:
    """What came of all of them."""

    signed: int = 0
    lost: list[str] = field(default_factory=list)  # what gpg said
    wrong: int = 0
    longest: float = 0.0  # seconds, of one gpg
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_for(self, more: int) -> None:
        """Until so many more were signed."""
        goal = self.signed + more
        _until(lambda: self.signed >= goal, f"{more} more signatures")


def _until(fact: object, what: str) -> None:
    assert callable(fact)
    deadline = time.monotonic() + _STEP_SECONDS
    while not fact():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {_STEP_SECONDS:.0f} s: {what}")
        time.sleep(_LOOK_SECONDS)


def sign_beside_kills(directory: Path, key: Key, count: int) -> Tally:
    """At least `count` signatures, in five parts: both oracles, the second alone, both, the first alone, both."""
    with _two_oracles(directory, key) as environment:
        keyring = directory / "public.gpg"
        with keyring.open("wb") as file:
            subprocess.run(["gpg", "--export"], env=environment, check=True, stdout=file)
        tally, part = Tally(), count // 5
        clients = [threading.Thread(target=_sign, args=(tally, environment, key, keyring)) for _ in range(_CLIENTS)]
        for client in clients:
            client.start()
        try:
            tally.wait_for(part)
            for name, node in (("oracle", "dev"), ("oracle-2", "dev-2")):
                _kill(directory, name)
                tally.wait_for(part)
                subprocess.run([ORACLE, "dev", "start", directory, name], check=True, stdout=subprocess.DEVNULL)
                _until(lambda node=node: _standing(environment, node) in {"best", "warm"}, f"{node} is found again")
                tally.wait_for(part)
        finally:
            tally.over.set()
            for client in clients:
                client.join()
        _check_logs(directory, tally)
    return tally


def _sign(tally: Tally, environment: dict[str, str], key: Key, keyring: Path) -> None:
    command = ["gpg", "--batch", "--quiet", "--no-tty", "-u", f"{key.fingerprint}!", "--detach-sign", "--output", "-"]
    file = keyring.with_name(f"data-{threading.get_ident()}")
    file.write_bytes(b"package")
    while not tally.over.is_set():
        start = time.perf_counter()
        done = subprocess.run([*command, file], env=environment, check=False, capture_output=True)
        seconds = time.perf_counter() - start
        is_good = _verifies(keyring, done.stdout, file)
        with tally.lock:
            tally.longest = max(tally.longest, seconds)
            tally.signed += done.returncode == 0
            tally.wrong += done.returncode == 0 and not is_good
            if done.returncode:
                tally.lost.append(done.stderr.decode(errors="replace"))


def _verifies(keyring: Path, signature: bytes, file: Path) -> bool:
    command = ["gpgv", "--quiet", "--keyring", str(keyring), "-", str(file)]
    return subprocess.run(command, input=signature, check=False, capture_output=True).returncode == 0


@contextmanager
def _two_oracles(directory: Path, key: Key) -> Iterator[dict[str, str]]:
    start = [ORACLE, "dev", "start", directory, "--oracles=2", f"--key=package={key.exported}"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
    try:
        yield environment_of(directory)
    finally:
        subprocess.run([ORACLE, "dev", "stop", directory], check=True, stdout=subprocess.DEVNULL)


def _kill(directory: Path, name: str) -> None:
    status = subprocess.run([ORACLE, "dev", "status", directory, "--json"], check=True, capture_output=True, text=True)
    os.kill(json.loads(status.stdout)["parts"][name]["pid"], signal.SIGKILL)


def _standing(environment: dict[str, str], node: str) -> str:
    done = subprocess.run([RELAY, "status", "--json"], env=environment, check=False, capture_output=True, text=True)
    oracles = json.loads(done.stdout)["oracles"] if done.stdout else []
    return next((oracle["standing"] for oracle in oracles if oracle["node"] == node), "")


def _check_logs(directory: Path, tally: Tally) -> None:
    """Every signature has its record in one of the two logs, and both logs are whole."""
    recorded = 0
    for audit in (directory / "audit", directory / "oracle-2" / "audit"):
        subprocess.run([ORACLE, "audit", "verify", audit], check=True, stdout=subprocess.DEVNULL)
        for segment in audit.glob("*.jsonl"):
            recorded += segment.read_text().count('"outcome":"signed"')
    if recorded < tally.signed:
        raise RuntimeError(f"{tally.signed} signatures came out, and {recorded} were recorded")
