"""Which messages travel between relay and oracle, and in which direction; docs/PROTOCOL.md shows each as JSON.

The relay speaks first: `hello`, answered by `welcome` or `rejected`. After that many requests may be in flight;
an answer carries its request's id and may come in any order.
"""

from agentproxy.protocol.journal import Report, Reported
from agentproxy.protocol.key_messages import SelectedKey, SelectKey
from agentproxy.protocol.oracle_messages import (
    Certificate,
    Credentials,
    Drain,
    Failed,
    KeysChanged,
    Refused,
    Rejected,
    Signed,
    Welcome,
)
from agentproxy.protocol.relay_messages import FetchCertificate, Hello, Ping, Pong, Sign
from agentproxy.protocol.seal_messages import Seal, Sealed
from agentproxy.protocol.wire import MessageCodec

__all__ = ["FROM_ORACLE", "FROM_RELAY", "PROTOCOL_VERSION", "FromOracle", "FromRelay"]

PROTOCOL_VERSION = 1

FromRelay = Hello | Sign | Seal | FetchCertificate | SelectKey | Report | Ping | Pong
FromOracle = (
    Welcome
    | Rejected
    | Credentials
    | Signed
    | Sealed
    | Refused
    | Failed
    | Certificate
    | SelectedKey
    | Reported
    | KeysChanged
    | Drain
    | Ping
    | Pong
)

FROM_RELAY: MessageCodec[FromRelay] = MessageCodec(Hello, Sign, Seal, FetchCertificate, SelectKey, Report, Ping, Pong)
FROM_ORACLE: MessageCodec[FromOracle] = MessageCodec(
    Welcome,
    Rejected,
    Credentials,
    Signed,
    Sealed,
    Refused,
    Failed,
    Certificate,
    SelectedKey,
    Reported,
    KeysChanged,
    Drain,
    Ping,
    Pong,
)
