"""`doctor`: goes the whole way of a signature, in order, and says at each step what is wrong and what to type.

It runs as the user who signs: what that user's gpg finds is what counts. Each check is a function of the case; the
table at the end is their order.
"""

import grp
import os
import shlex
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from relay.config import RelayConfig, load_config
from relay.connectionstate import Standing
from relay.control_call import ask
from relay.finding import Finding, bad, good, skipped, warning
from relay.gpgview import GpgView, ProgramError, why_unreachable
from relay.homes import homes_file, load_homes
from relay.status import ControlRequest, StatusReport

__all__ = ["WAY", "Case", "Check", "examine"]

GREETING_SECONDS = 5.0  # a relay greets at once, also when no oracle is in reach
CONNECT_SECONDS = 5.0
CLOCK_WARNING_SECONDS = 5  # signatures carry this host's clock
CLOCK_BAD_SECONDS = 120  # certificates and tokens begin to fail


@dataclass(slots=True)
class Case:
    """What is examined, and what the checks learnt so far.

    Args:
        file: relay.yaml.
        gpg: of the user who signs.
    """

    file: Path
    gpg: GpgView
    config: RelayConfig | None = None
    place: Path | None = None  # where gpg looks for its agent, once it leads to a socket of ours
    greeted: bool = False
    status: StatusReport | None = None
    why_no_status: str = ""

    @property
    def runner(self) -> str:
        """Its name, for commands on the oracle's host."""
        return self.status.runner if self.status is not None else "RUNNER"

    @property
    def falls_back(self) -> bool:
        """Whether the host signs by itself now."""
        return self.status is not None and self.status.fallback is not None and self.status.fallback.active

    @property
    def set_up(self) -> str:
        """The command that mends this home."""
        return f"blind-oracle-relay setup --home {shlex.quote(str(self.gpg.home))}"


Check = Callable[[Case], Finding]


def examine(case: Case, checks: Sequence[Check]) -> Iterator[Finding]:
    """All findings, in order; what keeps a check from being made is one, too."""
    for check in checks:
        name = check.__name__.removeprefix("check_")
        try:
            yield check(case)
        except ProgramError as error:
            yield bad(name, str(error), "apt-get install gnupg")
        except (ConfigError, OSError) as error:
            yield bad(name, str(error), error.hint if isinstance(error, ConfigError) else "may this user read it?")


def check_gpg(case: Case) -> Finding:
    return good("gpg", f"version {case.gpg.version}")


def check_configuration(case: Case) -> Finding:
    try:
        case.config = load_config(case.file)
    except ConfigError as error:
        return bad("configuration", str(error), error.hint or "blind-oracle-relay enroll FILE writes it")
    return good("configuration", f"{case.file}, runner {case.config.name}")


def check_socket(case: Case) -> Finding:
    """Does gpg's way lead to a socket of this relay?"""
    if case.config is None:
        return skipped("socket", "relay.yaml does not say which it is")
    place = case.gpg.agent_socket
    found = why_unreachable(place) or _lies_at(place, case)
    if found is None:
        case.place = place
        return good("socket", f"{place} leads to {os.path.realpath(place)}")
    try:
        others = [str(one.path) for one in load_homes(homes_file(case.file)).homes if one.path != case.gpg.home]
    except ConfigError as error:
        return bad("socket", f"{place}: {found}; {error}", f"mend {homes_file(case.file)} first; then {case.set_up}")
    hint = f"{case.set_up}; or use another home: export GNUPGHOME={others[0]}" if others else case.set_up
    return bad("socket", f"{place}: {found}", hint)


def _lies_at(place: Path, case: Case) -> str | None:
    """What is wrong with what lies where gpg looks; None: it leads to the relay, or will."""
    configured = case.config.sockets if case.config is not None else ()
    sockets = {os.path.realpath(one.path) for one in configured}  # `resolve` gives up where a link leads to itself
    if os.path.realpath(place) in sockets:
        return None
    if place.is_symlink():
        return f"leads to {place.readlink()}, which is no socket of this relay"
    if place.is_socket():
        return "a gpg-agent of this user answers there, in the relay's place"
    if place.exists():
        return "is a file of another kind"
    link = case.gpg.home / "relay-socket"
    if case.gpg.has_shim and link.is_symlink() and os.path.realpath(link) in sockets:
        return None
    return "nothing is there: gpg would start an agent of its own"


def check_relay(case: Case) -> Finding:
    """Does somebody greet there, and this user?"""
    if case.place is None:
        return skipped("relay", "gpg does not come to it")
    path = case.place if case.place.exists() else case.gpg.home / "relay-socket"
    real = os.path.realpath(path)
    try:
        # A name of a socket has 107 bytes at most, and a link can lead from a short name to a long one or back.
        answer = _first_words(min(str(path), real, key=lambda name: len(os.fsencode(name))))
    except PermissionError:
        return bad("relay", f"{real}: this user may not connect", _into_group(path))
    except (ConnectionError, FileNotFoundError):
        return bad("relay", f"{real}: no relay listens", "systemctl start blind-oracle-relay.socket, or serve")
    except TimeoutError:
        return bad("relay", f"{real}: the relay does not answer", "systemctl restart blind-oracle-relay")
    if "ERR" in answer:
        return bad("relay", "the relay lets this user in to nothing", f"users and groups of the socket in {case.file}")
    case.greeted = True
    return good("relay", "it answers")


def _first_words(path: str) -> str:
    """The greeting, and the answer to a harmless command."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(GREETING_SECONDS)
        stream.connect(path)
        stream.sendall(b"NOP\n")
        answer = b""
        while answer.count(b"\n") < 2 and (more := stream.recv(4096)):
            answer += more
    return answer.decode("ascii", "replace")


def _into_group(path: Path) -> str:
    with suppress(OSError, KeyError):
        status = path.stat()
        if status.st_mode & stat.S_IWGRP:
            return f"usermod --append --groups {grp.getgrgid(status.st_gid).gr_name} USER, and a new login"
    return "the directory or the socket's mode keeps this user out: mode in relay.yaml, or of the socket unit"


def check_control(case: Case) -> Finding:
    """May this user ask the relay how it is?"""
    if case.config is None:
        return skipped("control", "relay.yaml does not say where to ask")
    if case.place is not None and not case.greeted:
        return skipped("control", "no relay to ask")
    try:
        case.status = ask(case.config.control_socket, ControlRequest("status"), StatusReport)
    except ConfigError as error:
        case.why_no_status = "the relay could not be asked"
        if case.greeted:  # it runs, and only this user may not ask it: signing works all the same
            return warning("control", str(error), "run doctor as root, or as a member of the socket's group")
        return bad("control", str(error), error.hint or "systemctl start blind-oracle-relay.socket, or serve")
    fallback = case.status.fallback
    if fallback is not None and fallback.active:
        return warning(
            "control", f"FALLBACK ACTIVE, mode {fallback.mode}: {fallback.reason}", "blind-oracle-relay status"
        )
    return good("control", f"{case.status.software}, pid {case.status.pid}")


def check_network(case: Case) -> Finding:
    """Can this host reach an oracle's port?"""
    if case.config is None:
        return skipped("network", "relay.yaml does not say where an oracle is")
    if case.status is not None and case.status.connection.connected:
        return _connected(case.status)
    problems = []
    for oracle in case.config.oracles:
        if oracle.ssh is not None:
            return skipped("network", f"{oracle.address}: ssh's business")
        try:
            socket.create_connection((oracle.host, oracle.port), CONNECT_SECONDS).close()
        except OSError as error:
            problems.append(f"{oracle.address}: {error.strerror or error}")
        else:
            return good("network", f"{oracle.address} can be reached")
    hint = "is the oracle running? do name, port and firewall let this host through?"
    return bad("network", "; ".join(problems), hint)


def _connected(status: StatusReport) -> Finding:
    found = f"connected to {status.connection.node} at {status.connection.address}"
    missing = [one for one in status.oracles if one.standing in {Standing.AWAY, Standing.AILING}]
    if not missing:
        return good("network", found)
    others = "; ".join(f"{one.address} since {one.since:%Y-%m-%d %H:%M} UTC: {one.problem}" for one in missing)
    return warning("network", f"{found}, and not well: {others}", "blind-oracle check, on that host")


def check_tls(case: Case) -> Finding:
    """Do relay and oracle take each other's certificates?"""
    problem = _problem(case)
    if problem is None or _rejection(case) is not None:
        return _unless_connected(case, "tls")
    if "certificate of the oracle" in problem:
        hint = "server_name and authority in relay.yaml; on the oracle's host: blind-oracle certificate renew"
        return bad("tls", problem, hint)
    if "this certificate" in problem or "TLS" in problem:
        return bad("tls", problem, _worded(case, _ENROL_AGAIN))
    return skipped("tls", f"no connection: {problem}")


def check_credentials(case: Case) -> Finding:
    """Does the oracle take token and runner?"""
    hint = _rejection(case)
    if hint is not None:
        return bad("credentials", str(_problem(case)), _worded(case, hint))
    if _problem(case) is not None:
        return skipped("credentials", "the oracle was not asked")
    return _unless_connected(case, "credentials")


_ENROL_AGAIN = (
    "blind-oracle runner enroll {runner}{ssh_key}, on the oracle's host; here: blind-oracle-relay enroll --replace FILE"
)
# What the oracle says at `hello`, and what helps.
_REJECTIONS = {
    "token": _ENROL_AGAIN,
    "runner disabled": "blind-oracle runner enable {runner}, on the oracle's host",
    "does not name this runner": "name {runner} in policy.yaml on the oracle's host, and reload",
    "from this address": "networks of {runner} in policy.yaml on the oracle's host",
    "not operational": "blind-oracle check, on the oracle's host",
    "another version": "upgrade relay or oracle, whichever is older",
}


def _worded(case: Case, hint: str) -> str:
    # Without it the file would name the oracle's TLS addresses, which such a host cannot reach.
    goes_by_ssh = case.config is not None and any(oracle.ssh is not None for oracle in case.config.oracles)
    return hint.format(runner=case.runner, ssh_key=" --ssh-key FILE" if goes_by_ssh else "")


def _problem(case: Case) -> str | None:
    if case.status is None or case.status.connection.connected:
        return None
    return case.status.connection.problem


def _rejection(case: Case) -> str | None:
    problem = _problem(case) or ""
    return next((hint for words, hint in _REJECTIONS.items() if words in problem), None)


def _unless_connected(case: Case, check: str) -> Finding:
    if case.status is None:
        return skipped(check, case.why_no_status or "no relay to ask")
    return good(check, f"the oracle takes this runner, {case.runner}" if check == "credentials" else "TLS 1.3")


def check_clock(case: Case) -> Finding:
    """Is this host's clock the oracle's?"""
    ahead = case.status.connection.clock_ahead_seconds if case.status is not None else None
    if ahead is None:
        return skipped("clock", "no oracle has told its time")
    found = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the oracle's"
    if abs(ahead) > CLOCK_BAD_SECONDS:
        return bad("clock", found, "timedatectl set-ntp true, on the host whose clock is wrong")
    if abs(ahead) > CLOCK_WARNING_SECONDS:
        return warning("clock", found, "timedatectl set-ntp true, on the host whose clock is wrong")
    return good("clock", found)


WAY: Sequence[Check] = (
    check_gpg,
    check_configuration,
    check_socket,
    check_relay,
    check_control,
    check_network,
    check_tls,
    check_credentials,
    check_clock,
)
