"""Which key a build script should name to gpg, for a distribution or by its type; and what became of its requests."""

from collections.abc import Sequence
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.values import frozen
from relay.control_call import ask
from relay.homes import Homes
from relay.requestlog import Outcome, RequestEntry
from relay.status import ControlRequest, KeyReport, StatusReport

__all__ = ["Choice", "choose_key", "home_for", "outcome_line", "requests_by"]


@frozen
class Choice:
    """A key, and how gpg is to be told of it.

    Attributes:
        local_user: for gpg's --local-user.
        fallback: it is the host's own key, since the host signs by itself now.
    """

    name: str
    fingerprint: Fingerprint
    local_user: str
    fallback: bool = False


def choose_key(control: Path, status: StatusReport, distribution: str | None, key_type: str | None) -> Choice:
    """The host's own key while it falls back, else the one for a distribution, else the only one of a type.

    Raises:
        ConfigError: no key, or several, or the oracle cannot be asked.
    """
    if status.fallback is not None and status.fallback.active:
        own = status.fallback.keys[0]
        return Choice(own.name, own.fingerprint, f"{own.fingerprint}!", fallback=True)
    key = _served_key(control, status, distribution, key_type)
    return Choice(key.name, key.fingerprint, _local_user(key, status.keys))


def _served_key(control: Path, status: StatusReport, distribution: str | None, key_type: str | None) -> KeyReport:
    """A key of the oracle's.

    Raises:
        ConfigError: no key, or several, or the oracle cannot be asked.
    """
    if distribution is not None:
        return ask(control, ControlRequest("key_for", distribution=distribution, key_type=key_type), KeyReport)
    of_type = [key for key in status.keys if key_type in {None, key.key_type}]
    if len({(key.primary, key.key_type) for key in of_type}) == 1:
        return max(of_type, key=lambda key: key.created)  # while one subkey is replaced by the next, as gpg does
    what = "key" if key_type is None else f"key of type {key_type}"
    if not of_type:
        raise ConfigError(f"this runner may use no {what}", "blind-oracle-relay status lists what it may use")
    names = ", ".join(f"{key.name} ({key.key_type})" for key in of_type)
    raise ConfigError(
        f"this runner may use more than one {what}: {names}",
        "name a distribution, or a type: key-for --type, blind-oracle-sign-package --key-type",
    )


def _local_user(key: KeyReport, served: Sequence[KeyReport]) -> str:
    """What gpg is to be given as --local-user.

    The certificate, so that gpg itself takes its newest subkey; but the subkey when others of this certificate are
    served for something else.
    """
    others = [other for other in served if other.primary == key.primary and other.key_type != key.key_type]
    return f"{key.fingerprint}!" if others else str(key.primary)


def home_for(status: StatusReport, homes: Homes, distribution: str | None) -> str | None:
    """The GnuPG home that `setup` made for the socket of this very distribution; None: there is no such socket."""
    sockets = {Path(socket.path) for socket in status.sockets if socket.distribution == distribution is not None}
    return next((str(home.path) for home in homes.homes if home.socket in sockets), None)


def requests_by(status: StatusReport, text: str) -> list[RequestEntry]:
    """Requests of callers whose command lines, or those of whose parents, hold `text`; the oldest first."""
    return [
        entry
        for entry in reversed(status.last)
        if any(text in command for command in (entry.claims.commands if entry.claims else ()))
    ]


def outcome_line(entry: RequestEntry) -> str:
    """One request for a build's log, such as `signed modern` or `refused modern: forbidden: no such rule`."""
    own = " BY FALLBACK" if entry.fallback else ""
    name = f"{entry.outcome.value} {entry.key or entry.keygrip or '-'}{own}"
    return name if entry.outcome is Outcome.SIGNED else f"{name}: {entry.code}: {entry.reason}"
