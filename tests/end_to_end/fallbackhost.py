"""A dev system whose build server has a signing key of its own."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.admin.shell import blind_oracle
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import Done, System, forget_home, system_with, until

__all__ = ["FallbackHost", "allow", "fallback_host"]


@dataclass(frozen=True, slots=True)
class FallbackHost:
    """The system, and the fingerprint of the key that lies on the build server."""

    system: System
    own: str

    def fallback(self, *words: str) -> Done:
        return self.system.run("blind-oracle-relay", "fallback", *words)

    def on(self, time: str = "2h", reason: str = "drill") -> None:
        done = self.fallback("on", "--for", time, "--reason", reason)
        assert done.returncode == 0, done.stderr

    def off(self) -> None:
        done = self.fallback("off", "--reason", "the end")
        assert done.returncode == 0, done.stderr

    @property
    def status(self) -> dict[str, object]:
        """What `status --json` says of falling back."""
        done = self.system.run("blind-oracle-relay", "status", "--json")
        found: dict[str, object] = json.loads(done.stdout)["fallback"]
        return found

    @property
    def journal(self) -> Path:
        return self.system.directory / "relay" / "state" / "fallback" / "journal.jsonl"

    @property
    def home(self) -> Path:
        return self.system.directory / "relay" / "state" / "fallback" / "gnupg"

    def records(self) -> list[dict[str, object]]:
        """The journal's, from the file."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [json.loads(line) for line in lines]

    def delivered(self) -> list[dict[str, object]]:
        """The audit log's records of local signatures."""
        return [record for record in self.system.records() if record["operation"] == "fallback_sign"]

    def all_is_delivered(self) -> bool:
        journal = self.status["journal"]
        assert isinstance(journal, dict)
        return journal["undelivered"] == 0 and journal["records"] == len(self.records())

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> None:
        pid = self.system.pid(part)
        assert pid is not None
        os.kill(pid, number)
        if number is signal.SIGKILL:
            until(lambda: not Path(f"/proc/{pid}").exists() or self.system.pid(part) != pid, f"{part} is gone")


def allow(system: System, runner: str = "dev", *, allowed: bool = True) -> None:
    """What the oracle's operator does, and wait until the relay has heard it."""
    file = system.directory / "policy.yaml"
    text = file.read_text().replace("    fallback: true\n", "")
    if allowed:
        text = text.replace(f"  {runner}:\n", f"  {runner}:\n    fallback: true\n")
    file.write_text(text)
    for oracle in ["oracle", *(f"oracle-{number}" for number in range(2, system.oracles + 1))]:
        system.reload_policy(oracle)

    def heard() -> bool:
        done = system.run("blind-oracle-relay", "status", "--json")
        return bool(json.loads(done.stdout)["fallback"]["allowed"]) is allowed

    until(heard, "the relay hears what the policy says")


@contextmanager
def fallback_host(offline: Offline, *words: str, oracles: int = 1) -> Iterator[FallbackHost]:
    """A build server that may fall back, with a key that `fallback setup WORDS` gave it."""
    with system_with({"modern": offline.exports["modern"]}, oracles=oracles) as system:
        allow(system)
        done = system.run("blind-oracle-relay", "fallback", "setup", *(words or ("--make", "rsa2048")))
        assert done.returncode == 0, done.stderr
        [own] = [word for line in done.stderr.splitlines() if line.startswith("key ") for word in line.split()[1:2]]
        host = FallbackHost(system, own)
        try:
            hint = done.stderr.splitlines()[-1].partition("#")[0].split()
            named = [system.environment["GNUPGHOME"] if word == "GNUPGHOME" else word for word in hint]
            assert named == ["blind-oracle-relay", "setup", "--home", system.environment["GNUPGHOME"]]
            done = system.run(*named)
            assert done.returncode == 0, done.stderr
            yield host
            assert blind_oracle("audit", "verify", system.audit).status == 0
        finally:
            forget_home(host.home)
