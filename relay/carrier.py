"""An open link as what carries requests: how many are in flight over it, and whether any answer comes."""

import trio

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.journal import Report, Reported
from agentproxy.protocol.key_messages import SelectedKey, SelectKey
from agentproxy.protocol.oracle_messages import Certificate, Failed, Refused, Signed
from agentproxy.protocol.relay_messages import FetchCertificate, Sign
from agentproxy.protocol.seal_messages import Seal, Sealed
from relay.link import Link

__all__ = ["Answer", "Asked", "Carrier", "Reply"]

Asked = Sign | Seal | FetchCertificate | SelectKey | Report
Reply = Signed | Sealed | SelectedKey | Reported | Refused | Failed | Certificate
Answer = Signed | Sealed | SelectedKey | Reported | Refused | Failed | tuple[Certificate, ...]

# An oracle answers everything, at the latest when the time that we gave it has passed. What is overdue by more than
# this it forgot: without this limit each such request would take a place in the window for ever.
FORGOTTEN_SECONDS = 10.0


class Carrier:
    """What is in flight over one link.

    Args:
        link: welcome by the oracle.
        oracle: its address as the configuration has it.
        node: what the oracle calls itself.
        window: how many requests it takes at once.

    Attributes:
        in_flight: until when each request may take. Also those of callers that are gone: the oracle works on them.
        is_open: whether new requests may go over it.
        farewell: why the link ends once nothing is in flight; empty: it does not.
    """

    def __init__(self, link: Link, oracle: str, node: str, window: int) -> None:
        self.link = link
        self.oracle = oracle
        self.node = node
        self.in_flight: dict[str, float] = {}
        self.is_open = True
        self.farewell = ""
        self._window = max(1, window)
        self._parts: dict[str, list[Certificate]] = {}
        self._silent_since = 0.0  # with something in flight: when that began, or when the last answer came

    def send(self, request_id: str, expires: float, message: Asked) -> None:
        """Send a request, also one that it has: it joins the two."""
        if not self.in_flight:
            self._silent_since = trio.current_time()
        self.in_flight[request_id] = expires
        self.link.send(message)

    def take(self, message: Reply) -> Answer | None:
        """A whole answer; None while parts of a certificate are missing.

        Raises:
            RemoteProtocolError: parts of a certificate out of order.
        """
        answer = self._collected(message) if isinstance(message, Certificate) else message
        if answer is not None:
            self.in_flight.pop(message.id, None)
            self._parts.pop(message.id, None)  # else a hostile oracle leaves us some of them with each signature
        if self.in_flight:
            self._silent_since = trio.current_time()
        return answer

    def _collected(self, part: Certificate) -> tuple[Certificate, ...] | None:
        if part.id not in self.in_flight:
            return None  # nobody asked over this link: nothing is kept for whoever might
        parts = self._parts.setdefault(part.id, [])
        if part.part != len(parts) + 1:
            raise RemoteProtocolError("certificate: parts come in order")
        parts.append(part)
        return tuple(self._parts.pop(part.id)) if part.part == part.parts else None

    def has_room(self) -> bool:
        """Whether another request may be sent."""
        if len(self.in_flight) >= self._window:
            limit = trio.current_time() - FORGOTTEN_SECONDS
            self.in_flight = {key: expires for key, expires in self.in_flight.items() if expires > limit}
            self._parts = {key: parts for key, parts in self._parts.items() if key in self.in_flight}
        return len(self.in_flight) < self._window

    def is_stalled(self, seconds: float) -> bool:
        """Whether requests are in flight, and none of them was answered for so long."""
        return bool(self.in_flight) and trio.current_time() - self._silent_since >= seconds

    def end_if_done(self) -> None:
        """End a link that was told farewell, when nothing is in flight any more."""
        if self.farewell and not self.in_flight:
            self.link.end(self.farewell)
