"""The parts of a dev system as processes: each oracle, which runs its signer, and the relay."""

import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agentproxy.admin.dev import processes
from agentproxy.admin.dev.place import Place
from agentproxy.admin.dev.processes import Process
from agentproxy.admin.layout import Layout
from agentproxy.admin.readiness import ReadySocket
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen
from relay.connectionstate import Standing
from relay.control_call import ask
from relay.setup import set_up
from relay.status import CertificateReport, ControlRequest, StatusReport

__all__ = [
    "RELAY",
    "Part",
    "end_now",
    "is_running",
    "parts_of",
    "runs_by_itself",
    "set_up_home",
    "start",
    "state_of",
    "stop",
    "stop_rest",
    "stop_unfinished",
    "wait_until_connected",
]

ORACLE, SIGNER, RELAY = "oracle", "signer", "relay"

START_SECONDS = 60.0  # about one; unlocking many protected keys takes longer
STOP_SECONDS = 20.0  # the oracle's own limit for what is in flight is 10 s, its signer's 5 s
CONNECT_SECONDS = 30.0  # for the relay to find the oracle; its longest pause between two attempts is shorter
_LOOK_SECONDS = 0.05
_LOG_LINES = 12
_NOT_YET = frozenset({Standing.AWAY, Standing.DRAINING})


@frozen
class Part:
    """A process of the system."""

    name: str
    words: tuple[str, ...]  # the module and perhaps its command
    config: Path
    host: str = ""  # the part that starts and ends this one; empty: we do


def parts_of(place: Place) -> Mapping[str, Part]:
    """All parts by their names, in the order of their start: oracle, signer, oracle-2, signer-2, …, relay."""
    found: list[Part] = []
    for number in range(place.oracles):
        layout, suffix = Layout(place.node(number)), f"-{number + 1}" if number else ""
        oracle = Part(ORACLE + suffix, ("agentproxy.admin", "serve"), layout.oracle_config)
        found += [oracle, Part(SIGNER + suffix, ("agentproxy.signer",), layout.signer_config, oracle.name)]
    found.append(Part(RELAY, ("relay.cli", "serve"), place.relay_config))
    return {part.name: part for part in found}


def runs_by_itself(place: Place) -> list[str]:
    """The names of the parts that we start and end, in the order of their start."""
    return [name for name, part in parts_of(place).items() if not part.host]


def start(place: Place, name: str) -> None:
    """Start an oracle or the relay, unless it runs, and wait until it can be used.

    Raises:
        ConfigError: it does not start; with the end of its log.
    """
    if is_running(place, name):
        return
    part, log = parts_of(place)[name], place.logs / f"{name}.log"
    command = (sys.executable, "-P", "-m", *part.words, "--config", str(part.config))
    place.logs.mkdir(mode=0o700, exist_ok=True)  # somebody may have taken them away
    before = log.stat().st_size if log.exists() else 0
    _starting_file(place, name).touch(mode=0o600)
    with ReadySocket() as ready:
        process = processes.spawn(command, ready.environment(), log)
        is_ready = False
        try:
            processes.remember(_pid_file(place, name), process)
            is_ready = ready.wait(process.pid, START_SECONDS)
        finally:
            if not is_ready:
                processes.end(process, STOP_SECONDS)
            _starting_file(place, name).unlink(missing_ok=True)
    if not is_ready:
        raise ConfigError(f"the {name} does not start:\n{_said(log, before)}", f"its log: {log}")


def stop(place: Place, name: str) -> None:
    """Stop an oracle (with its signer) or the relay, if it runs."""
    process = processes.recall(_pid_file(place, name))
    if process is not None:
        processes.end(process, STOP_SECONDS)
    _pid_file(place, name).unlink(missing_ok=True)
    for part in parts_of(place).values():
        if name in {part.name, part.host}:  # itself, too: a start that was killed may have noted no pid
            for left in processes.find(*part.words, at=part.config):
                processes.end(left, STOP_SECONDS)
    _starting_file(place, name).unlink(missing_ok=True)


def stop_unfinished(place: Place) -> None:
    """Stop what a `dev start` left that was killed while it waited: nobody knows whether that is ready."""
    for name in reversed(runs_by_itself(place)):
        if _starting_file(place, name).exists():
            stop(place, name)


def end_now(place: Place, name: str) -> None:
    """End an oracle or the relay while another command starts it, which then gives up; that one keeps the files."""
    process = processes.recall(_pid_file(place, name))
    if process is not None:
        processes.end(process, STOP_SECONDS)


def stop_rest(place: Place) -> None:
    """Stop what else works here, such as agents that gpg or the relay started, and remove what lies elsewhere."""
    for home in (place.home, place.fallback_home):
        for program in ("gpg-agent", "scdaemon", "dirmngr", "keyboxd"):
            for word in (program, f"/usr/bin/{program}", f"/usr/lib/gnupg/{program}"):
                for process in processes.find(word, at=home):
                    processes.end(process, STOP_SECONDS)
    for part in parts_of(place).values():
        for process in processes.find(*part.words, at=part.config):
            processes.end(process, STOP_SECONDS)
    for home in filter(Path.is_dir, (place.home, place.fallback_home)):
        # In a login session gpg looks below /run/user, where the link to the relay would stay for ever.
        with suppress(OSError, subprocess.SubprocessError):
            command = ["gpgconf", "--homedir", str(home), "--remove-socketdir"]
            subprocess.run(command, check=False, capture_output=True, timeout=STOP_SECONDS)


def is_running(place: Place, name: str) -> bool:
    """Whether a part runs."""
    return state_of(place, name) is not None


def state_of(place: Place, name: str) -> Process | None:
    """A part's process, if it runs."""
    part = parts_of(place)[name]
    if part.host:  # which starts it, and again when it dies
        return next(processes.find(*part.words, at=part.config), None)
    return processes.recall(_pid_file(place, name))


def wait_until_connected(place: Place, *, with_all: bool) -> None:
    """Wait until the relay has found an oracle, or all that there are.

    Raises:
        ConfigError: it has not within CONNECT_SECONDS; with the relay's reason.
    """
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        report = ask(place.control, ControlRequest("status"), StatusReport)
        if report.connection.connected and not (with_all and any(one.standing in _NOT_YET for one in report.oracles)):
            return
        # A relay that waits for its next attempt makes it now when somebody wants something.
        with suppress(ConfigError):
            ask(place.control, ControlRequest("certificates"), CertificateReport)
        if time.monotonic() > deadline:
            log = place.logs / "relay.log"
            raise ConfigError(f"the relay does not reach the oracle: {report.connection.problem}", f"its log: {log}")
        time.sleep(_LOOK_SECONDS)


def set_up_home(place: Place) -> None:
    """Make or repair the build server's GnuPG home; the relay must be connected."""
    report = ask(place.control, ControlRequest("certificates"), CertificateReport)
    set_up(place.home, place.socket, report.certificates)


def _pid_file(place: Place, name: str) -> Path:
    return place.layout.run / f"{name}.pid"


def _starting_file(place: Place, name: str) -> Path:
    return place.layout.run / f"{name}.starting"


def _said(log: Path, before: int) -> str:
    with log.open("rb") as file:
        file.seek(before)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_LOG_LINES:]) or "it did not say why"
