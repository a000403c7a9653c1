"""A running dev system as its user sees it: real processes, real gpg, the files that they leave."""

import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.admin.shell import Result, blind_oracle
from tests.signer.logs import records_in

__all__ = ["SECONDS", "Done", "System", "forget_home", "gpg_in", "is_traced", "system_with", "until"]

SECONDS = 60  # no step of a test takes so long, also on a busy machine
_LOOK_SECONDS = 0.02


def until(fact: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(_LOOK_SECONDS)


def is_traced(pid: int | None, tracer: int) -> bool:
    """Whether every thread of a process has this tracer."""
    try:
        found = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):  # a thread ended while we looked
        return False
    return all(f"TracerPid:\t{tracer}\n" in status for status in found)


Done = subprocess.CompletedProcess[str]


@cache
def _environment(directory: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    found = {**kept, "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    result = blind_oracle("dev", "env", directory)
    assert result.status == 0, result.errors
    for line in result.output.splitlines():
        _, assignment = shlex.split(line)
        name, _, value = assignment.partition("=")
        found[name] = value.replace("$PATH", found["PATH"])
    return found


@dataclass(frozen=True, slots=True)
class System:
    """What `blind-oracle dev start DIRECTORY` made."""

    directory: Path
    oracles: int = 1

    def dev(self, command: str, *words: str) -> Result:
        return blind_oracle("dev", command, self.directory, *words)

    def start(self, *words: str) -> None:
        result = self.dev("start", *words)
        assert result.status == 0, result.errors

    def stop(self, *words: str) -> None:
        result = self.dev("stop", *words)
        assert result.status == 0, result.errors

    @property
    def environment(self) -> dict[str, str]:
        """As after `eval "$(blind-oracle dev env DIRECTORY)"` in a plain shell."""
        return _environment(self.directory)

    def run(self, *words: str | Path, text: str = "", seconds: float = SECONDS) -> Done:
        return subprocess.run(
            [str(word) for word in words],
            env=self.environment,
            cwd=self.directory,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def gpg(self, *words: str | Path, text: str = "", seconds: float = SECONDS) -> Done:
        return self.run("gpg", "--batch", "--no-tty", *words, text=text, seconds=seconds)

    def sign(self, name: str = "modern", *words: str | Path) -> Done:
        return self.gpg("--local-user", f"{name}@example.org", "--armor", *words, "--detach-sign", text="some text")

    def is_good(self, signature: str, fingerprint: str, text: str = "some text") -> bool:
        with tempfile.TemporaryDirectory(prefix="bo") as name:
            (Path(name) / "sig").write_text(signature)
            done = self.gpg("--status-fd", "1", "--verify", Path(name) / "sig", "-", text=text)
            return done.returncode == 0 and f"VALIDSIG {fingerprint} " in done.stdout

    @contextmanager
    def another_home(self) -> Iterator[Path]:
        """A second GnuPG home for the same relay, with public keys only."""
        with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
            home = Path(name) / "home"
            done = self.run("blind-oracle-relay", "setup", "--home", home)
            assert done.returncode == 0, done.stderr
            try:
                yield home
            finally:
                forget_home(home)

    @property
    def keyring(self) -> str:
        """Everything that gpg has to say about the certificates in the build server's home."""
        options = ("--with-colons", "--with-subkey-fingerprint", "--with-sig-list")
        return self.gpg(*options, "--fixed-list-mode", "--check-sigs").stdout

    @property
    def socket(self) -> Path:
        return self.directory / "relay" / "run" / "S.gpg-agent"

    @property
    def audit(self) -> Path:
        return self.directory / "audit"

    @property
    def audits(self) -> list[Path]:
        """The log of each oracle."""
        return [self.audit, *(self.directory / f"oracle-{number}" / "audit" for number in range(2, self.oracles + 1))]

    def records(self) -> list[dict[str, object]]:
        return [record for audit in self.audits for record in records_in(audit)]

    def signed(self) -> list[dict[str, object]]:
        return [record for record in self.records() if record["outcome"] == "signed"]

    def assert_log_is_whole(self) -> None:
        """By the operator's own command."""
        for audit in self.audits:
            result = blind_oracle("audit", "verify", audit)
            assert result.status == 0, result.output
            assert result.output.startswith("whole: ")

    def log(self, part: str) -> str:
        file = self.directory / "log" / f"{part}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def last(self, count: int = 1) -> list[Mapping[str, object]]:
        """The relay's last requests, newest first."""
        done = self.run("blind-oracle-relay", "status", "--json", "--last", str(count))
        assert done.stdout, done.stderr
        requests: list[Mapping[str, object]] = json.loads(done.stdout)["last"]
        return requests

    def standings(self) -> dict[str, str]:
        """What each oracle is to the relay, by its node's name; empty while there is no relay to ask."""
        done = self.run("blind-oracle-relay", "status", "--json")
        plain = json.loads(done.stdout)["oracles"] if done.stdout else []
        return {oracle["node"] or oracle["address"]: oracle["standing"] for oracle in plain}

    def pid(self, part: str) -> int | None:
        pid: int | None = json.loads(self.dev("status", "--json").output)["parts"][part]["pid"]
        return pid

    def reload_policy(self, oracle: str = "oracle") -> None:
        """As an operator does who has changed policy.yaml."""
        before = self.log(oracle).count("policy reloaded")
        pid = self.pid(oracle)
        assert pid is not None
        os.kill(pid, signal.SIGHUP)
        until(lambda: self.log(oracle).count("policy reloaded") > before, "the oracle takes the policy")

    def restrict(self, distributions: Mapping[str, str]) -> None:
        """Let each of these keys be for the distributions of one pattern, as on a real host."""
        policy = self.directory / "policy.yaml"
        text = policy.read_text()
        for name, pattern in distributions.items():
            text = re.sub(rf"(\n  {name}:\n(?:    .*\n)*?)(?=  \S|\n)", rf'\1    distributions: ["{pattern}"]\n', text)
        policy.write_text(text)
        self.reload_policy()

    def wait_for_claims(self) -> None:
        """Start the relay anew, so patient that each signature has all claims: 5 ms may not do on a busy machine."""
        with (self.directory / "relay" / "relay.yaml").open("a") as file:
            file.write("claims_ms: 10000\n")
        self.stop("relay")
        self.start("relay")

    def is_connected(self) -> bool:
        return self.run("blind-oracle-relay", "status").returncode == 0


@contextmanager
def system_with(keys: Mapping[str, Path], name: str = "s", oracles: int = 1) -> Iterator[System]:
    """A dev system in a short directory; afterwards nothing of it runs and its directory is gone."""
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as parent:
        system = System(Path(parent) / name, oracles)
        try:
            system.start(f"--oracles={oracles}", *(f"--key={key}={file}" for key, file in keys.items()))
            yield system
        finally:
            system.stop()


def forget_home(home: Path) -> None:
    """Stop what gpg started for a home, and remove what it made below /run/user."""
    for what in (("--kill", "all"), ("--remove-socketdir",)):
        subprocess.run(["gpgconf", "--homedir", home, *what], check=False, capture_output=True, timeout=SECONDS)


def gpg_in(home: Path, *words: str | Path, text: str = "") -> Done:
    """gpg for somebody who only has public keys, such as a package's user."""
    return subprocess.run(
        ["gpg", "--homedir", str(home), "--batch", "--no-tty", *map(str, words)],
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
