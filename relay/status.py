"""What the running relay tells about itself, as types that both its control socket and the command line know."""

from datetime import datetime

from agentproxy.protocol.fields import Head
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.values import frozen
from relay.connectionstate import ConnectionState, OracleState
from relay.fallbackmode import FallbackMode
from relay.fallbackreport import FallbackReport
from relay.requestlog import RequestEntry

__all__ = [
    "MAX_QUESTION",
    "CertificateReport",
    "ControlError",
    "ControlRequest",
    "KeyReport",
    "SocketReport",
    "StatusReport",
]

# Bytes of a request's line. A reason has 1024 characters, and JSON may take twelve bytes for one.
MAX_QUESTION = 16_384


@frozen
class ControlRequest:
    """What is asked on the control socket: one line of JSON."""

    command: str  # status, certificates, key_for or fallback
    last: int = 0  # with status: how many requests to tell about
    distribution: str | None = None  # with key_for
    key_type: str | None = None  # with key_for; None: of any
    mode: FallbackMode | None = None  # with fallback: what to switch to; None: what relay.yaml says
    seconds: int = 0  # with fallback: for how long; 0: until the next switch
    reason: str = ""


@frozen
class ControlError:
    """The answer when there is none."""

    error: str
    hint: str = ""


@frozen
class KeyReport:
    """A key that this runner may use."""

    name: str
    key_type: str
    keygrip: Keygrip
    fingerprint: Fingerprint
    primary: Fingerprint
    user_id: str
    algorithm: str  # such as "rsa4096", "ed25519", "nistp256"
    created: datetime
    expires: datetime | None = None


@frozen
class SocketReport:
    """A socket for gpg."""

    name: str
    path: str
    keys: tuple[str, ...] = ()  # names of the only ones that it shows; empty: all
    distribution: str | None = None


@frozen
class StatusReport:
    """The answer to `status`."""

    runner: str
    software: str
    pid: int
    started: datetime
    connection: ConnectionState
    sockets: tuple[SocketReport, ...]
    gpg_connections: int
    waiting: int  # requests that wait for the oracle now
    counts: dict[str, int]  # requests since the start, by outcome
    moved: int = 0  # requests since the start that were sent to another oracle after the first
    oracles: tuple[OracleState, ...] = ()  # in the configuration's order
    keys: tuple[KeyReport, ...] = ()
    heads: tuple[Head, ...] = ()
    fallback: FallbackReport | None = None
    last: tuple[RequestEntry, ...] = ()


@frozen
class CertificateReport:
    """The answer to `certificates`: OpenPGP certificates, binary, each once."""

    certificates: tuple[bytes, ...]
    sockets: tuple[str, ...]
