"""Makes enrolment files: a bootstrap certificate and a one-time token for a day, recorded first, then in the registry.

The relay exchanges them for lasting credentials, which the oracle renews by itself.
"""

import getpass
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import field
from datetime import datetime
from pathlib import Path

from agentproxy.admin.revocations import revocations_of
from agentproxy.admin.signeraccess import ask, signer_for
from agentproxy.oracle.changes import Change, RunnerAdded
from agentproxy.oracle.config import AttachConfig, OracleConfig, parse_address
from agentproxy.oracle.credentials import Credentials
from agentproxy.oracle.issuing import issued_change, new_token
from agentproxy.oracle.journal import SignerJournal
from agentproxy.oracle.registry import Registry
from agentproxy.protocol.addresses import SshAddress
from agentproxy.protocol.errors import BackendError, ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Asserted, Claims
from agentproxy.protocol.signer_answers import Issued
from agentproxy.protocol.signer_messages import FromSigner, ToSigner
from agentproxy.protocol.signer_requests import CertificateKind, Issue
from agentproxy.protocol.times import format_time
from agentproxy.protocol.values import frozen

__all__ = [
    "BOOTSTRAP_DAYS",
    "RegistryDesk",
    "add_runner",
    "attach_of",
    "enrol_again",
    "known_credentials",
    "registry_desk",
]

BOOTSTRAP_DAYS = 1  # how long an enrolment file can be used
_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not bound


@frozen
class RegistryDesk:
    """Where a command changes credentials: registry and signer, open for as long as it works."""

    registry: Registry
    signer: Path  # its socket

    def change(self, change: Change, runner: str | None = None) -> None:
        """Record and make a change.

        Raises:
            ConfigError: it cannot be, or the signer does not record it.
        """
        asserted = _asserted(runner)
        try:
            self.registry.change(SignerJournal(lambda request: ask(self.signer, request), asserted), change)
        except BackendError as error:
            raise ConfigError(f"the signer does not record it: {error}") from error

    def issue(self, runner: str) -> "Bootstrap":
        """Make the credentials of an enrolment file, and register them.

        Raises:
            ConfigError: there is no such runner, or the signer does not issue.
        """
        request = Issue(0, CertificateKind.CLIENT, runner, (), BOOTSTRAP_DAYS, _asserted(runner))
        issued = _ask(self.signer, request)
        if not isinstance(issued, Issued):
            raise ConfigError(f"the signer answered {issued.tag} for a certificate")
        token = new_token()
        change = issued_change(runner, issued, token, BOOTSTRAP_DAYS)
        self.change(change, runner)
        return Bootstrap(runner, token, issued, min(issued.expires, change.token_expires))

    def revoke_all(self, runner: str) -> None:
        """End everything that a runner holds, for ever.

        Raises:
            ConfigError: the signer does not record it; what was ended before stays so.
        """
        # Again, since an oracle may have renewed a token that was not revoked yet.
        while changes := revocations_of(self.registry.snapshot(), runner):
            for change in changes:
                self.change(change, runner)


@frozen
class Bootstrap:
    """What an enrolment file holds."""

    runner: str
    token: str = field(repr=False)
    issued: Issued
    expires: datetime


@contextmanager
def registry_desk(oracle: OracleConfig) -> Iterator[RegistryDesk]:
    """Open the registry and find the signer, or start one for the moment.

    Raises:
        ConfigError: one of them cannot be used.
    """
    registry = Registry.open(oracle.database)
    try:
        with signer_for(oracle) as path:
            yield RegistryDesk(registry, path)
    finally:
        registry.close()


def attach_of(oracle: OracleConfig) -> AttachConfig:
    """How relays come over ssh, with an address that enrolment files can name.

    Raises:
        ConfigError: oracle.yaml says nothing of that.
    """
    if oracle.attach is None or not oracle.attach.address:
        raise ConfigError(
            "attach: expected socket, users and address in oracle.yaml: no build server can come over ssh",
            "docs/SSH.md has the lines",
        )
    return oracle.attach


def add_runner(oracle: OracleConfig, name: str, *, over_ssh: bool = False) -> bytes:
    """Add a runner, and give the one file that it gets: JSON, secret.

    Args:
        over_ssh: the file names the oracle's ssh address in the place of its TLS addresses.

    Raises:
        ConfigError: the name is bad or taken, nobody told where build servers reach this oracle, or the signer does
            not issue.
    """
    addresses = _addresses(oracle, over_ssh=over_ssh)
    try:
        change = RunnerAdded(name)
    except RemoteProtocolError as error:
        raise ConfigError(str(error)) from error
    with registry_desk(oracle) as desk:
        desk.change(change, name)
        return _file(addresses, desk.issue(name))


def known_credentials(oracle: OracleConfig, runner: str | None = None) -> Credentials:
    """What the registry knows; with `runner`, which must be in it.

    Raises:
        ConfigError: the registry cannot be used, or there is no such runner.
    """
    registry = Registry.open(oracle.database)
    try:
        credentials = registry.snapshot()
    finally:
        registry.close()
    if runner is not None and runner not in credentials.runners:
        raise ConfigError(f"no runner {runner}", "blind-oracle runner list shows them")
    return credentials


def enrol_again(oracle: OracleConfig, name: str, *, over_ssh: bool = False, revoke_old: bool = False) -> bytes:
    """Give a runner that is there another enrolment file: its host was made anew, or the day was too short.

    Args:
        over_ssh: as for `add_runner`; nothing remembers how a runner came before.
        revoke_old: end what it holds, before the new credentials are made: then nothing is left for somebody else.

    Raises:
        ConfigError: there is no such runner, or as `add_runner`.
    """
    addresses = _addresses(oracle, over_ssh=over_ssh)
    with registry_desk(oracle) as desk:
        if name not in desk.registry.snapshot().runners:
            raise ConfigError(f"no runner {name}", f"blind-oracle runner add {name}")
        if revoke_old:
            desk.revoke_all(name)
        return _file(addresses, desk.issue(name))


def _asserted(runner: str | None) -> Asserted:
    return Asserted(runner=runner, channel="cli", claims=_operator())


def _ask(path: Path, request: ToSigner) -> FromSigner:
    try:
        return ask(path, request)
    except BackendError as error:
        raise ConfigError(f"the signer refuses: {error}") from error


def _operator() -> Claims:
    """Who runs this command, as far as the process knows."""
    user = None
    with suppress(OSError, KeyError, ImportError):  # a uid without a name
        user = getpass.getuser()
    return Claims(uid=os.getuid(), user=user, pid=os.getpid())


def _file(addresses: tuple[str, ...], enrolled: Bootstrap) -> bytes:
    oracles = [{"address": address, "server_name": _server_name(address)} for address in addresses]
    content = {
        "format": "blind-oracle enrolment 1",
        "runner": enrolled.runner,
        "oracles": oracles,
        "authority": enrolled.issued.authority,
        "certificate": enrolled.issued.certificate,
        "private_key": enrolled.issued.private_key,
        "token": enrolled.token,
        "expires": format_time(enrolled.expires),
    }
    return json.dumps(content, indent=2).encode("ascii") + b"\n"


def _server_name(address: str) -> str:
    # Over ssh there is no TLS: known_hosts says which host it must be.
    return SshAddress.parse(address).host if address.startswith("ssh://") else parse_address(address).host


def _addresses(oracle: OracleConfig, *, over_ssh: bool) -> tuple[str, ...]:
    """What a relay dials, in its order: ours first, since whoever enrols by us shall be served by us."""
    if over_ssh:
        return (attach_of(oracle).address,)
    return tuple(dict.fromkeys((*_own_addresses(oracle), *oracle.other_oracles)))


def _own_addresses(oracle: OracleConfig) -> tuple[str, ...]:
    if oracle.addresses:
        return oracle.addresses
    listen = parse_address(oracle.listen)
    if listen.host in _ANYWHERE:
        raise ConfigError(
            "addresses: expected what build servers dial, since the oracle listens everywhere",
            'add to oracle.yaml, with a name from the server\'s certificate: addresses: ["oracle.example.org:7443"]',
        )
    if listen.port:
        return (oracle.listen,)
    try:
        return (oracle.bound_address_file.read_text(encoding="ascii").strip(),)
    except OSError as error:
        raise ConfigError("listen: port 0 becomes a number only when the oracle runs", "start it first") from error
